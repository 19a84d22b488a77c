// A tensor as the copy engine of sm_90 (TMA) sees it.
#pragma once

#include <cstdint>

namespace simt {

// Four dims of 16-bit elements, and the box of them that one copy moves. Neighbours along dim 0 are adjacent.
// In shared memory a box is rows of 128 bytes with their 16-byte chunks swizzled; what of it lies outside of
// the tensor is zero when loaded and left out when stored.
struct TensorView {
  void* data;                // aligned to 16 bytes
  std::uint64_t sizes[4];    // elements, 1 or more
  std::uint64_t strides[3];  // bytes, of dims 1 to 3: multiples of 16
  std::uint32_t box[4];      // elements, up to 256 each; box[0] is 64
  int promotion = 128;       // bytes that a miss brings to L2: 0, 128 or 256
};

}  // namespace simt

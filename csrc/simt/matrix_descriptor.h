// What wgmma is told of a matrix in shared memory. Included where DEVICE and `shared_address` are known.
#pragma once

#include <cstdint>

namespace simt {

// Where a matrix lies in shared memory, in rows of 128 bytes whose chunks are swizzled, as TMA leaves it (PTX
// ISA, "matrix descriptor"). `stride_bytes` apart are groups of 8 rows. `leading_bytes` apart are groups of
// 64 columns, where the columns are along N. To move by so many bytes, add their 16th part.
DEVICE std::uint64_t matrix_descriptor(const void* shared, int leading_bytes, int stride_bytes) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
  const auto field = [](std::uint32_t bytes) { return std::uint64_t{(bytes & 0x3ffffu) >> 4}; };
  return field(shared_address(shared)) | field(leading_bytes) << 16 | field(stride_bytes) << 32 | kSwizzle128;
}

}  // namespace simt

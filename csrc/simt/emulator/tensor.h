// Tensor maps: what TMA is told of a tensor, and which bytes a box of it is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "../status.h"
#include "../tensor_view.h"

namespace simt {

struct alignas(64) TensorMap {
  TensorView view;
  bool encoded = false;
};

// Makes `map` from `view`, or says what cuTensorMapEncodeTiled would refuse.
Status encode(TensorMap& map, const TensorView& view);

namespace emulator {

constexpr std::size_t kChunk = 16;      // bytes that stay together
constexpr std::size_t kRow = 128;       // bytes of a row of a box in shared memory
constexpr std::size_t kPattern = 1024;  // bytes after which the swizzle repeats
constexpr std::size_t kElement = 2;     // bytes

// Where a byte of rows of 128 bytes lies: 16-byte chunk c of row r is at c ^ r % 8. `byte` counts from an
// address that is a multiple of 1024.
inline std::size_t swizzle(std::size_t byte) { return byte ^ (byte >> 7 & 7) << 4; }

using Coordinates = std::array<int, 4>;

inline std::size_t box_rows(const TensorView& view) {
  return std::size_t{view.box[1]} * view.box[2] * view.box[3];
}

// One row of a box: elements `first` to `last` of it are in the tensor, from `data` on.
struct BoxRow {
  int first, last;
  unsigned char* data;

  std::size_t bytes() const { return (last - first) * kElement; }
};

BoxRow box_row(const TensorView& view, const Coordinates& corner, std::size_t row);

}  // namespace emulator
}  // namespace simt

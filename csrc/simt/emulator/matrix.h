// Matrices that wgmma reads from shared memory, found by their descriptors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "error.h"
#include "shared.h"

namespace simt::emulator {

constexpr int kDepth = 16;    // of one wgmma of 16-bit elements
constexpr int kColumns = 8;   // of d in one register quadruple, which B is kept by
constexpr int kRowsOfA = 64;  // of a warpgroup

// The 16-bit format of both operands.
enum class Kind { kHalf, kBfloat16 };

float element(Kind kind, std::uint16_t bits);

// PTX ISA, "matrix descriptor": bits 0-13 hold the start, 16-29 the leading offset, 32-45 the stride, each
// without its last 4 bits; 49-51 the base offset, 62-63 the layout.
struct Descriptor {
  std::size_t start, leading, stride;  // bytes
};

class Matrices {
 public:
  Matrices(SharedMemory& shared, Kind kind, Site site) : shared_(shared), kind_(kind), site_(site) {}

  // 128-byte swizzle, depth along the rows: row r, depth k lies at start + r / 8 stride + r % 8 128 + 2 k,
  // swizzled on the address. out: [rows, 16], or [rows / 8, 16, 8].
  void read_rows(std::uint64_t descriptor, int rows, float* out);
  void read_columns_by_rows(std::uint64_t descriptor, int columns, float* out);

  // 128-byte swizzle, columns along the rows: depth k, column n lies at start + n / 64 leading + k / 8 stride
  // + k % 8 128 + 2 (n % 64). out: [columns / 8, 16, 8].
  void read_depths(std::uint64_t descriptor, int columns, float* out);

  // The words that were read.
  std::vector<Words> take_words() { return std::move(words_); }

 private:
  Descriptor decode(std::uint64_t bits) const;
  void check(bool holds, const char* what, std::size_t value) const;
  const std::uint16_t* chunk(std::size_t byte);

  SharedMemory& shared_;
  Kind kind_;
  Site site_;
  std::vector<Words> words_;
};

}  // namespace simt::emulator

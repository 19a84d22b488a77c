#include "matrix.h"

#include <algorithm>
#include <string>

#include "numbers.h"
#include "tensor.h"

namespace simt::emulator {

namespace {

constexpr int kPanel = 64;                   // columns in a row of 128 bytes
constexpr int kInChunk = kChunk / kElement;  // elements
constexpr std::uint64_t kFields = 0xc0003fff3fff3fffu, kSwizzle128 = std::uint64_t{1} << 62;

}  // namespace

float element(Kind kind, std::uint16_t bits) {
  return kind == Kind::kHalf ? to_float(half{bits}) : to_float(bfloat16{bits});
}

void Matrices::check(bool holds, const char* what, std::size_t value) const {
  if (!holds) fail(std::string("descriptor: ") + what + " (" + std::to_string(value) + ")", site_);
}

Descriptor Matrices::decode(std::uint64_t bits) const {
  check((bits & ~kFields) == 0, "bits outside of its fields, or a base offset, which should be 0", bits);
  check(bits >> 62 == kSwizzle128 >> 62, "another layout than the swizzle of 128 bytes", bits >> 62);
  const auto field = [bits](int first) { return static_cast<std::size_t>(bits >> first & 0x3fffu) << 4; };
  const Descriptor found{field(0), field(16), field(32)};
  check(found.start % kPattern < kRow, "groups of 8 rows that do not start at multiples of 1024 bytes",
        found.start);
  check(found.stride % kPattern == 0, "a stride that is no multiple of 1024 bytes", found.stride);
  return found;
}

const std::uint16_t* Matrices::chunk(std::size_t byte) {
  const std::size_t at = swizzle(byte);
  const unsigned char* found = shared_.base() + at;
  shared_.check(found, kChunk, kChunk, "wgmma", site_);
  words_.push_back({static_cast<std::uint32_t>(at / 4), kChunk / 4});
  return reinterpret_cast<const std::uint16_t*>(found);
}

void Matrices::read_rows(std::uint64_t descriptor, int rows, float* out) {
  const Descriptor from = decode(descriptor);
  check(from.start % kRow + kDepth * kElement <= kRow, "a depth that goes on after its row of 128 bytes",
        from.start);
  for (int r = 0; r < rows; r++)
    for (int k = 0; k < kDepth; k += kInChunk) {
      const std::uint16_t* bits = chunk(from.start + r / 8 * from.stride + r % 8 * kRow + k * kElement);
      for (int i = 0; i < kInChunk; i++) out[r * kDepth + k + i] = element(kind_, bits[i]);
    }
}

void Matrices::read_columns_by_rows(std::uint64_t descriptor, int columns, float* out) {
  std::vector<float> rows(static_cast<std::size_t>(columns) * kDepth);
  read_rows(descriptor, columns, rows.data());
  for (int n = 0; n < columns; n++)
    for (int k = 0; k < kDepth; k++)
      out[(n / kColumns * kDepth + k) * kColumns + n % kColumns] = rows[n * kDepth + k];
}

void Matrices::read_depths(std::uint64_t descriptor, int columns, float* out) {
  const Descriptor from = decode(descriptor);
  check(from.start % kRow + std::min(columns, kPanel) * kElement <= kRow,
        "columns that go on after their row of 128 bytes", from.start);
  check(columns <= kPanel || from.leading % kPattern == 0,
        "a leading offset that is no multiple of 1024 bytes", from.leading);
  for (int k = 0; k < kDepth; k++)
    for (int n = 0; n < columns; n += kInChunk) {
      const std::uint16_t* bits = chunk(from.start + n / kPanel * from.leading + k / 8 * from.stride +
                                        k % 8 * kRow + n % kPanel * kElement);
      for (int i = 0; i < kInChunk; i++)
        out[(n / kColumns * kDepth + k) * kColumns + i] = element(kind_, bits[i]);
    }
}

}  // namespace simt::emulator

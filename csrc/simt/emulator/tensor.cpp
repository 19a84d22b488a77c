#include "tensor.h"

#include <algorithm>

namespace simt {

Status encode(TensorMap& map, const TensorView& view) {
  constexpr std::uint64_t kMaxSize = std::uint64_t{1} << 32, kMaxStride = std::uint64_t{1} << 40;
  constexpr std::uint32_t kMaxBox = 256;
  const auto refuse = [](const char* message) { return Status{1, message}; };
  if (view.data == nullptr || reinterpret_cast<std::uintptr_t>(view.data) % 16 != 0)
    return refuse("a tensor's data must be aligned to 16 bytes");
  for (const std::uint64_t size : view.sizes)
    if (size < 1 || size > kMaxSize) return refuse("a tensor's sizes must be 1 to 2^32");
  for (const std::uint64_t stride : view.strides)
    if (stride % 16 != 0 || stride >= kMaxStride)
      return refuse("a tensor's strides must be multiples of 16 bytes below 2^40");
  for (const std::uint32_t size : view.box)
    if (size < 1 || size > kMaxBox) return refuse("a box's sizes must be 1 to 256");
  if (view.box[0] * emulator::kElement != emulator::kRow)
    return refuse("a box's rows must be 128 bytes, those of the swizzle");
  if (view.promotion != 0 && view.promotion != 128 && view.promotion != 256)
    return refuse("a miss brings 0, 128 or 256 bytes to L2");
  map.view = view;
  map.encoded = true;
  return {0, nullptr};
}

namespace emulator {

BoxRow box_row(const TensorView& view, const Coordinates& corner, std::size_t row) {
  const std::int64_t within[] = {0, static_cast<std::int64_t>(row % view.box[1]),
                                 static_cast<std::int64_t>(row / view.box[1] % view.box[2]),
                                 static_cast<std::int64_t>(row / view.box[1] / view.box[2])};
  std::int64_t offset = 0;
  for (int dim = 1; dim < 4; dim++) {
    const std::int64_t at = corner[dim] + within[dim];
    if (at < 0 || at >= static_cast<std::int64_t>(view.sizes[dim])) return {0, 0, nullptr};
    offset += at * static_cast<std::int64_t>(view.strides[dim - 1]);
  }
  const std::int64_t left = static_cast<std::int64_t>(view.sizes[0]) - corner[0];
  const std::int64_t first = std::clamp<std::int64_t>(-std::int64_t{corner[0]}, 0, view.box[0]);
  const std::int64_t last = std::clamp<std::int64_t>(left, first, view.box[0]);
  offset += (corner[0] + first) * static_cast<std::int64_t>(kElement);
  return {static_cast<int>(first), static_cast<int>(last), static_cast<unsigned char*>(view.data) + offset};
}

}  // namespace emulator
}  // namespace simt

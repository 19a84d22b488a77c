// wgmma on a CPU: the same names as in device_wgmma.h. What they do is in emulator/products.cpp.
#pragma once

#include <cstdint>
#include <type_traits>

#include "emulator/launch.h"
#include "emulator/numbers.h"
#include "matrix_descriptor.h"

namespace simt {

DEVICE void wgmma_fence(Site site = Site::here()) { emulator::Block::running().products().fence(site); }
template <int kTiles>
DEVICE void wgmma_fence(float (&)[kTiles][4], Site site = Site::here()) {
  wgmma_fence(site);
}
template <int kTiles, int kSteps>
DEVICE void wgmma_fence(float (&)[kTiles][4], std::uint32_t (&)[kSteps][4], Site site = Site::here()) {
  wgmma_fence(site);
}
DEVICE void wgmma_commit(Site site = Site::here()) { emulator::Block::running().products().commit(site); }

template <int kPending, int kTiles>
DEVICE void wgmma_wait(float (&d)[kTiles][4], Site site = Site::here()) {
  emulator::Block::running().products().wait(kPending, d[0], site);
}

template <class T, int kColumns>
DEVICE void wgmma(const emulator::Product& product, Site site) {
  static_assert(kColumns >= 8 && kColumns <= 256 && kColumns % 8 == 0);
  constexpr bool is_half = std::is_same_v<T, half>;
  emulator::Block::running().products().multiply(
      product, kColumns, is_half ? emulator::Kind::kHalf : emulator::Kind::kBfloat16, site);
}

template <class T, int kColumns>
DEVICE void wgmma_shared(float (&d)[kColumns / 8][4], std::uint64_t a, std::uint64_t b, bool accumulate,
                         Site site = Site::here()) {
  wgmma<T, kColumns>({d[0], nullptr, a, b, accumulate}, site);
}

template <class T, int kColumns>
DEVICE void wgmma_registers(float (&d)[kColumns / 8][4], const std::uint32_t (&a)[4], std::uint64_t b,
                            Site site = Site::here()) {
  wgmma<T, kColumns>({d[0], a, 0, b, true}, site);
}

}  // namespace simt

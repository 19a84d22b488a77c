// The two products of attention on one tile of keys, for the 64 queries of a warpgroup. Both are under way
// when these return.
#pragma once

#include <cstdint>

#include "../../simt.h"
#include "shape.h"

namespace attention::sm90 {

constexpr int kUnit = 16;      // bytes: what descriptors count in
constexpr int kNoLeading = 0;  // offset: of no use where the depth is along the rows (PTX's K-major)

// s = q k^T: 16 columns of depth at a time, 4 times in a panel.
template <class S, class T>
DEVICE void multiply_keys(float (&s)[S::kKeyTiles][4], const T* queries, const T* keys) {
  const std::uint64_t q = simt::matrix_descriptor(queries, kNoLeading, kGroupBytes);
  const std::uint64_t k = simt::matrix_descriptor(keys, kNoLeading, kGroupBytes);
  simt::wgmma_fence();
  UNROLL_FOR (int step = 0; step < S::kDepthSteps; step++) {
    const int panel = step / 4, within = step % 4 * 32;
    simt::wgmma_shared<T, S::kKeys>(s, q + (panel * kRows * kRowBytes + within) / kUnit,
                                    k + (panel * S::kKeys * kRowBytes + within) / kUnit, step > 0);
  }
  simt::wgmma_commit();
}

// o += p v: 16 keys at a time. The columns of v are along its rows (PTX's MN-major); those beyond the head
// dim, which a padded design multiplies too, are zero.
template <class S, class T>
DEVICE void multiply_values(float (&o)[S::kWidthTiles][4], std::uint32_t (&p)[S::kKeySteps][4],
                            const T* values) {
  const std::uint64_t v = simt::matrix_descriptor(values, S::kKeys * kRowBytes, kGroupBytes);
  simt::wgmma_fence(o, p);
  UNROLL_FOR (int step = 0; step < S::kKeySteps; step++)
    simt::wgmma_registers<T, S::kWidth>(o, p[step], v + step * 16 * kRowBytes / kUnit);
  simt::wgmma_commit();
}

}  // namespace attention::sm90

// The two products of attention on one tile of keys, for the 16 kRowTiles queries of a warp.
#pragma once

#include <cstdint>

#include "../../simt.h"
#include "../softmax.h"

namespace attention::sm80 {

// The fragment of 16 queries at depth step k: lanes 0-15 name the rows' first 8 columns, 16-31 the next 8.
template <class S, class T>
DEVICE void load_queries(std::uint32_t (&fragment)[4], const T* queries, int row_tile, int k) {
  const int lane = simt::thread_index() % 32;
  simt::ldmatrix_x4(fragment, queries + (16 * row_tile + lane % 16) * S::kRow + 16 * k + lane / 16 * 8);
}

// s = q k^T. One ldmatrix serves 16 keys: registers 0 and 1 are the first 8, registers 2 and 3 the others.
template <class S, class T>
DEVICE void multiply_keys(float (&s)[S::kRowTiles][S::kKeyTiles][4],
                          const std::uint32_t (&in_registers)[S::kRowTiles][S::kDepthSteps][4],
                          const T* queries, const T* keys) {
  const int lane = simt::thread_index() % 32;
  const T* corner = keys + (lane / 16 * 8 + lane % 8) * S::kRow + lane / 8 % 2 * 8;
  UNROLL_FOR (int m = 0; m < S::kRowTiles; m++)
    UNROLL_FOR (int n = 0; n < S::kKeyTiles; n++)
      UNROLL_FOR (int i = 0; i < 4; i++) s[m][n][i] = 0.0f;
  UNROLL_FOR (int k = 0; k < S::kDepthSteps; k++) {
    std::uint32_t a[S::kRowTiles][4];
    UNROLL_FOR (int m = 0; m < S::kRowTiles; m++) {
      if constexpr (S::kQueriesInRegisters) {
        UNROLL_FOR (int i = 0; i < 4; i++) a[m][i] = in_registers[m][k][i];
      } else {
        load_queries<S>(a[m], queries, m, k);
      }
    }
    UNROLL_FOR (int n = 0; n < S::kKeyTiles; n += 2) {
      std::uint32_t b[4];
      simt::ldmatrix_x4(b, corner + 8 * n * S::kRow + 16 * k);
      UNROLL_FOR (int m = 0; m < S::kRowTiles; m++) {
        simt::mma_m16n8k16<T>(s[m][n], a[m], b[0], b[1]);
        simt::mma_m16n8k16<T>(s[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// o += p v.
template <class S, class T>
DEVICE void multiply_values(float (&o)[S::kRowTiles][S::kColumnTiles][4],
                            const float (&p)[S::kRowTiles][S::kKeyTiles][4], const T* values) {
  const int lane = simt::thread_index() % 32;
  const T* corner = values + lane % 16 * S::kValueRow + lane / 16 * 8;
  UNROLL_FOR (int k = 0; k < S::kKeySteps; k++) {
    std::uint32_t a[S::kRowTiles][4];
    UNROLL_FOR (int m = 0; m < S::kRowTiles; m++) pack_fragment<T>(a[m], p[m], k);
    UNROLL_FOR (int n = 0; n + 1 < S::kColumnTiles; n += 2) {
      std::uint32_t b[4];
      simt::ldmatrix_x4_trans(b, corner + 16 * k * S::kValueRow + 8 * n);
      UNROLL_FOR (int m = 0; m < S::kRowTiles; m++) {
        simt::mma_m16n8k16<T>(o[m][n], a[m], b[0], b[1]);
        simt::mma_m16n8k16<T>(o[m][n + 1], a[m], b[2], b[3]);
      }
    }
    if constexpr (S::kColumnTiles % 2 == 1) {
      constexpr int kLast = S::kColumnTiles - 1;
      std::uint32_t b[2];
      simt::ldmatrix_x2_trans(b, values + (16 * k + lane % 16) * S::kValueRow + 8 * kLast);
      UNROLL_FOR (int m = 0; m < S::kRowTiles; m++) simt::mma_m16n8k16<T>(o[m][kLast], a[m], b[0], b[1]);
    }
  }
}

}  // namespace attention::sm80

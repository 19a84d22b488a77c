// The softmax of 16 rows, spread over a warp as mma and wgmma leave it: lane l has rows l / 4 and l / 4 + 8,
// of them columns 2 (l % 4) and the next in every tile of 8.
#pragma once

#include <cstdint>

#include "../simt.h"

namespace attention {

constexpr float kLog2E = 1.4426950408889634f;

struct RowState {
  float max[2];  // of the logits so far, before the scale
  float sum[2];  // of this lane's exponentials
};

DEVICE float quad_max(float x) {
  x = simt::maximum(x, simt::shuffle_xor(x, 1));
  return simt::maximum(x, simt::shuffle_xor(x, 2));
}

DEVICE float quad_sum(float x) {
  x += simt::shuffle_xor(x, 1);
  return x + simt::shuffle_xor(x, 2);
}

// Columns `valid` and beyond are keys that do not exist; none of them is in a tile before kFrom.
template <int kFrom = 0, int kTiles>
DEVICE void mask_keys(float (&s)[kTiles][4], int valid) {
  const int column = 2 * (simt::thread_index() % 4);
  UNROLL_FOR (int n = kFrom; n < kTiles; n++)
    UNROLL_FOR (int i = 0; i < 4; i++)
      if (8 * n + column + i % 2 >= valid) s[n][i] = simt::minus_infinity();
}

// The largest logit of a row, or what it was.
template <int kTiles>
DEVICE float row_max(const float (&s)[kTiles][4], int r, float max) {
  UNROLL_FOR (int n = 0; n < kTiles; n++)
    max = simt::maximum(max, simt::maximum(s[n][2 * r], s[n][2 * r + 1]));
  return quad_max(max);
}

// What exponents are counted from. A row whose every logit is minus infinity so far: minus infinity less
// itself would be NaN.
DEVICE float base_of(float max, float scale_log2) {
  return max == simt::minus_infinity() ? 0.0f : max * scale_log2;
}

// Online softmax (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3),
// with powers of 2: under the new maximum m of a row,
//   p = exp2((s - m) scale_log2)          in the place of s
//   l = l exp2((m' - m) scale_log2) + sum of p
// where m' and l' are what tiles before left. `correction` is that first power of 2, for what else was summed
// under m'; kFirst: nothing was.
template <bool kFirst, int kTiles>
DEVICE void softmax_tile(float (&s)[kTiles][4], RowState& state, float (&correction)[2], float scale_log2) {
  UNROLL_FOR (int r = 0; r < 2; r++) {
    const float max = row_max(s, r, kFirst ? simt::minus_infinity() : state.max[r]);
    const float base = base_of(max, scale_log2);
    correction[r] = kFirst ? 1.0f : simt::exp2_approx(state.max[r] * scale_log2 - base);
    state.sum[r] *= correction[r];
    state.max[r] = max;
    UNROLL_FOR (int n = 0; n < kTiles; n++)
      UNROLL_FOR (int e = 0; e < 2; e++) {
        const float p = simt::exp2_approx(s[n][2 * r + e] * scale_log2 - base);
        s[n][2 * r + e] = p;
        state.sum[r] += p;
      }
  }
}

// What was accumulated under a smaller maximum, brought to the new one.
template <int kTiles>
DEVICE void rescale(float (&o)[kTiles][4], const float (&correction)[2]) {
  UNROLL_FOR (int n = 0; n < kTiles; n++)
    UNROLL_FOR (int i = 0; i < 4; i++) o[n][i] *= correction[i / 2];
}

// The fragment of p at depth step k: what a product leaves of two neighbouring tiles is what the next one
// takes as its first operand.
template <class T, int kTiles>
DEVICE void pack_fragment(std::uint32_t (&fragment)[4], const float (&p)[kTiles][4], int k) {
  UNROLL_FOR (int i = 0; i < 4; i++)
    fragment[i] = simt::pack<T>(p[2 * k + i / 2][2 * (i % 2)], p[2 * k + i / 2][2 * (i % 2) + 1]);
}

}  // namespace attention

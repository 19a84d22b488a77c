// The softmax of 16 rows, spread over a warp as mma leaves it: lane l has rows l / 4 and l / 4 + 8, of them
// columns 2 (l % 4) and the next in every tile of 8.
#pragma once

#include "../../simt.h"

namespace attention::sm80 {

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

// Columns `valid` and beyond are keys that do not exist.
template <int kTiles>
DEVICE void mask_keys(float (&s)[kTiles][4], int valid) {
  const int column = 2 * (simt::thread_index() % 4);
  UNROLL_FOR (int n = 0; n < kTiles; n++)
    UNROLL_FOR (int i = 0; i < 4; i++)
      if (8 * n + column + i % 2 >= valid) s[n][i] = simt::minus_infinity();
}

// s becomes exp2(scale_log2 (s - max)); what was summed before, under a smaller maximum, is brought to the
// new one (Milakov and Gimelshein 2018, algorithm 3). kFirst: nothing was summed before.
template <bool kFirst, int kTiles, int kColumnTiles>
DEVICE void softmax_tile(float (&s)[kTiles][4], RowState& state, float (&o)[kColumnTiles][4],
                         float scale_log2) {
  UNROLL_FOR (int r = 0; r < 2; r++) {
    float max = kFirst ? simt::minus_infinity() : state.max[r];
    UNROLL_FOR (int n = 0; n < kTiles; n++)
      max = simt::maximum(max, simt::maximum(s[n][2 * r], s[n][2 * r + 1]));
    max = quad_max(max);
    // A row whose every logit is minus infinity so far: minus infinity less itself would be NaN.
    const float base = max == simt::minus_infinity() ? 0.0f : max * scale_log2;
    if constexpr (!kFirst) {
      const float rescale = simt::exp2_approx(state.max[r] * scale_log2 - base);
      state.sum[r] *= rescale;
      UNROLL_FOR (int n = 0; n < kColumnTiles; n++) {
        o[n][2 * r] *= rescale;
        o[n][2 * r + 1] *= rescale;
      }
    }
    state.max[r] = max;
    UNROLL_FOR (int n = 0; n < kTiles; n++)
      UNROLL_FOR (int e = 0; e < 2; e++) {
        const float p = simt::exp2_approx(s[n][2 * r + e] * scale_log2 - base);
        s[n][2 * r + e] = p;
        state.sum[r] += p;
      }
  }
}

}  // namespace attention::sm80

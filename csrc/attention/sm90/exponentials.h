// The softmax of a tile as a design has it.
#pragma once

#include <cstdint>

#include "../../simt.h"
#include "../softmax.h"

namespace attention::sm90 {

constexpr float kRise = 8.0f;  // log2: p stays below 256, which 16 bits hold as exactly as numbers below 1

// 2^x for x <= 127 without the unit that has exponentials; NaN stays NaN, and below 2^-126 it is 0.
//   n = x to the nearest integer, f = x - n, 2^x = 2^n (c0 + c1 f + c2 f^2 + c3 f^3)
// (Cody and Waite 1980, "Software Manual for the Elementary Functions".) The coefficients have the least
// relative error on [-1/2, 1/2], 7.5e-5: bfloat16 itself is off by up to 2.0e-3, float16 by 4.9e-4.
DEVICE float exp2_polynomial(float x) {
  constexpr float c0 = 0.999928057f, c1 = 0.693260968f, c2 = 0.242611125f, c3 = 0.0551716685f;
  constexpr float kInteger = 12583039.0f;  // 1.5 2^23 + 127: a sum with it has n + 127 in its lowest bits
  x = simt::maximum_or_nan(x, -127.0f);
  const float shifted = x + kInteger, f = x - (shifted - kInteger);
  const float power = simt::float_of(simt::bits_of(shifted) << 23);
  return power * (c0 + f * (c1 + f * (c2 + f * c3)));
}

// `softmax_tile`, but that a design may leave maxima and sums as they were, and may have some exponentials by
// the polynomial. Whether what else was summed must be brought to new maxima, by `correction`: the answer is
// the warp's. A row whose maximum stays has a correction of 1, so that its bits do not depend on other rows.
//
// In a packed design `pack(step)` hears that tiles 2 step and 2 step + 1 are done, while others are to come.
template <class Design, bool kFirst, int kTiles, class Pack>
DEVICE bool softmax_step(float (&s)[kTiles][4], RowState& state, float (&correction)[2], float scale_log2,
                         const Pack& pack) {
  if constexpr (!Design::kLazy && Design::kPolynomial == 0 && !Design::kPacked) {
    softmax_tile<kFirst>(s, state, correction, scale_log2);
    return true;
  } else {
    constexpr bool kAlways = kFirst || !Design::kLazy;
    float max[2];
    bool rises[2];
    UNROLL_FOR (int r = 0; r < 2; r++) {
      max[r] = row_max(s, r, kFirst ? simt::minus_infinity() : state.max[r]);
      rises[r] = kAlways || (max[r] - state.max[r]) * scale_log2 > kRise;
    }
    const bool any = kAlways || simt::any_of_warp(rises[0] || rises[1]);
    if (any) {
      UNROLL_FOR (int r = 0; r < 2; r++) {
        correction[r] = kFirst || !rises[r]
                            ? 1.0f
                            : simt::exp2_approx(state.max[r] * scale_log2 - base_of(max[r], scale_log2));
        state.sum[r] *= correction[r];
        state.max[r] = rises[r] ? max[r] : state.max[r];
      }
    }
    const float below[2] = {base_of(state.max[0], scale_log2), base_of(state.max[1], scale_log2)};
    UNROLL_FOR (int n = 0; n < kTiles; n++) {
      UNROLL_FOR (int i = 0; i < 4; i++) {
        const float x = s[n][i] * scale_log2 - below[i / 2];
        s[n][i] = n % 8 < Design::kPolynomial ? exp2_polynomial(x) : simt::exp2_approx(x);
        state.sum[i / 2] += s[n][i];
      }
      if (Design::kPacked && n % 2 == 1) pack(n / 2);
    }
    return any;
  }
}

}  // namespace attention::sm90

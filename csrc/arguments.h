// What Python hands over, as an attention kernel takes it: integers and lists of them.
#pragma once

#include <array>
#include <cstdint>

#include "attention/attention.h"

using Pointers = std::array<std::uintptr_t, 4>;              // of q, k, v, o
using Strides = std::array<std::array<std::int64_t, 3>, 4>;  // of each, in elements: batch, row, head
using Sizes = std::array<int, 5>;                            // batch, heads, queries, keys, head_dim

inline attention::Params attention_params(const Pointers& pointers, const Strides& strides,
                                          const Sizes& sizes, float scale, int multiprocessors, int arch) {
  attention::View views[4];
  for (int i = 0; i < 4; i++)
    views[i] = {reinterpret_cast<void*>(pointers[i]), strides[i][0], strides[i][1], strides[i][2]};
  return {views[0], views[1], views[2], views[3], sizes[0],        sizes[1],
          sizes[2], sizes[3], sizes[4], scale,    multiprocessors, arch};
}

inline attention::Type attention_type(bool is_half) {
  return is_half ? attention::Type::kFloat16 : attention::Type::kBFloat16;
}

// What an attention kernel is told. No framework's types: pointers, strides, sizes.
#pragma once

#include <cstdint>

namespace attention {

// A tensor [batch, rows, heads, head_dim] of 16-bit elements by its strides in elements; neighbours along
// head_dim are adjacent. Rows are 16-byte aligned: the pointer, and every stride a multiple of 8.
struct View {
  void* data;
  std::int64_t batch_stride, row_stride, head_stride;
};

struct Params {
  View q, k, v, o;
  int batch, heads, queries, keys, head_dim;
  float scale;          // of the logits: positive
  int multiprocessors;  // of the device: with few tiles, smaller ones fill it
  int arch;             // of the device, as 80: 90 has kernels of its own
  int promotion = 128;  // bytes that a miss of TMA's brings to L2: 0, 128 or 256
};

}  // namespace attention

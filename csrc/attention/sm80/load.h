// Global memory to shared memory, 16 bytes a thread at a time, without waiting.
#pragma once

#include <cstdint>

#include "../../simt.h"

namespace attention::sm80 {

// The rows of one head of one sample.
template <class T>
struct Rows {
  const T* data;
  std::int64_t stride;
  int count, head_dim;
};

// Rows `first` to `first + rows` into `tile`, whose rows are kStride apart. What lies beyond the last row, or
// beyond head_dim up to kColumns, becomes zero: a mask need not fear what a zero is multiplied with.
template <int kColumns, int kStride, class T>
DEVICE void load_tile(T* tile, const Rows<T>& source, int first, int rows) {
  constexpr int kChunk = 8, kChunks = kColumns / kChunk;
  for (int i = simt::thread_index(); i < rows * kChunks; i += simt::thread_count()) {
    const int row = i / kChunks, column = i % kChunks * kChunk;
    const bool exists = first + row < source.count && column < source.head_dim;
    const T* from = exists ? source.data + (first + row) * source.stride + column : source.data;
    simt::cp_async_16(tile + row * kStride + column, from, exists ? 16 : 0);
  }
}

}  // namespace attention::sm80

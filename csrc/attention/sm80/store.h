// The accumulators of a warp to global memory, by way of the shared memory its queries came in.
#pragma once

#include <cstdint>

#include "../../simt.h"
#include "../softmax.h"

namespace attention::sm80 {

// Rows `first` to `first + kWarpRows` of o, as many as exist. `staging` is the warp's own. 16 bytes a lane:
// straight from the accumulators it would be 4.
template <class S, class T>
DEVICE void store_rows(T* destination, std::int64_t stride, int first, int count, int head_dim, T* staging,
                       const float (&o)[S::kRowTiles][S::kColumnTiles][4], RowState (&state)[S::kRowTiles]) {
  const int lane = simt::thread_index() % 32;
  UNROLL_FOR (int m = 0; m < S::kRowTiles; m++)
    UNROLL_FOR (int r = 0; r < 2; r++) {
      const float inverse = simt::reciprocal(quad_sum(state[m].sum[r]));
      T* row = staging + (16 * m + 8 * r + lane / 4) * S::kRow + 2 * (lane % 4);
      UNROLL_FOR (int n = 0; n < S::kColumnTiles; n++)
        simt::store_shared_4(row + 8 * n,
                             simt::pack<T>(o[m][n][2 * r] * inverse, o[m][n][2 * r + 1] * inverse));
    }
  simt::sync_warp();
  for (int i = lane; i < S::kWarpRows * S::kColumnTiles; i += 32) {
    const int row = i / S::kColumnTiles, column = i % S::kColumnTiles * 8;
    if (first + row < count && column < head_dim) {
      const simt::Words4 chunk = simt::load_shared_16(staging + row * S::kRow + column);
      simt::store_global_16(destination + (first + row) * stride + column, chunk);
    }
  }
}

}  // namespace attention::sm80

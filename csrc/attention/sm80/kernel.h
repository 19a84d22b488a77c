// softmax(scale q k^T) v for the queries of one tile, of one head of one sample (Dao et al. 2022, in
// FlashAttention-2's order: a block owns queries, a warp owns rows).
#pragma once

#include <cstdint>

#include "../../simt.h"
#include "../params.h"
#include "../softmax.h"
#include "load.h"
#include "multiply.h"
#include "shape.h"
#include "store.h"

namespace attention::sm80 {

template <class T>
DEVICE T* head_of(const View& view, int batch, int head) {
  return static_cast<T*>(view.data) + batch * view.batch_stride + head * view.head_stride;
}

// S::kStages is 2 for any number of keys: while one tile is used the next one arrives. It is 1 where all keys
// are one tile. What a row computes does not depend on how many rows share a block, so neither do its bits.
template <class T, class S>
KERNEL void LAUNCH_BOUNDS(kWarp* kMaxWarps, S::kBlocks) attention_fwd(Params params) {
  DYNAMIC_SHARED(shared);
  const int warp = simt::thread_index() / kWarp, rows = simt::thread_count() / kWarp * S::kWarpRows;
  T* const queries = reinterpret_cast<T*>(shared);
  T* const keys = queries + rows * S::kRow;
  T* const values = keys + S::kStages * S::kKeyStage;
  T* const own_queries = queries + warp * S::kWarpRows * S::kRow;

  const int tiles = (params.queries + rows - 1) / rows, of_head = simt::block_index() / tiles;
  const int head = of_head % params.heads, batch = of_head / params.heads;
  const int first_row = simt::block_index() % tiles * rows;
  const Rows<T> q{head_of<T>(params.q, batch, head), params.q.row_stride, params.queries, params.head_dim};
  const Rows<T> k{head_of<T>(params.k, batch, head), params.k.row_stride, params.keys, params.head_dim};
  const Rows<T> v{head_of<T>(params.v, batch, head), params.v.row_stride, params.keys, params.head_dim};
  const float scale_log2 = params.scale * kLog2E;

  load_tile<S::kDepth, S::kRow>(queries, q, first_row, rows);
  load_tile<S::kDepth, S::kRow>(keys, k, 0, S::kKeys);
  simt::cp_async_commit();
  load_tile<S::kHeadDim, S::kValueRow>(values, v, 0, S::kKeys);
  simt::cp_async_commit();

  float o[S::kRowTiles][S::kColumnTiles][4];
  RowState state[S::kRowTiles];
  UNROLL_FOR (int m = 0; m < S::kRowTiles; m++) {
    UNROLL_FOR (int r = 0; r < 2; r++) {
      state[m].max[r] = simt::minus_infinity();
      state[m].sum[r] = 0.0f;
    }
    UNROLL_FOR (int n = 0; n < S::kColumnTiles; n++)
      UNROLL_FOR (int i = 0; i < 4; i++) o[m][n][i] = 0.0f;
  }
  std::uint32_t q_fragments[S::kRowTiles][S::kDepthSteps][4];

  // Copies arrive in the order k_0, v_0, k_1, v_1, ... Each wait leaves the newest group open: v_j while k_j
  // is used, k_{j+1} while v_j is. Each barrier also says that nobody reads the stage any more that is filled
  // after it.
  for (int first_key = 0, stage = 0; first_key < params.keys;
       first_key += S::kKeys, stage ^= S::kStages - 1) {
    const int next_key = first_key + S::kKeys, other = stage ^ (S::kStages - 1);
    simt::cp_async_wait<1>();
    simt::sync_block();
    if constexpr (!S::kOneTile) {
      if (next_key < params.keys)
        load_tile<S::kDepth, S::kRow>(keys + other * S::kKeyStage, k, next_key, S::kKeys);
    }
    simt::cp_async_commit();
    if constexpr (S::kQueriesInRegisters) {
      if (first_key == 0) {
        UNROLL_FOR (int m = 0; m < S::kRowTiles; m++)
          UNROLL_FOR (int d = 0; d < S::kDepthSteps; d++)
            load_queries<S>(q_fragments[m][d], own_queries, m, d);
      }
    }
    float s[S::kRowTiles][S::kKeyTiles][4];
    multiply_keys<S>(s, q_fragments, own_queries, keys + stage * S::kKeyStage);
    UNROLL_FOR (int m = 0; m < S::kRowTiles; m++) {
      if (next_key > params.keys) mask_keys(s[m], params.keys - first_key);
      float correction[2];
      softmax_tile<S::kOneTile>(s[m], state[m], correction, scale_log2);
      if constexpr (!S::kOneTile) rescale(o[m], correction);
    }
    simt::cp_async_wait<1>();
    simt::sync_block();
    if constexpr (!S::kOneTile) {
      if (next_key < params.keys)
        load_tile<S::kHeadDim, S::kValueRow>(values + other * S::kValueStage, v, next_key, S::kKeys);
    }
    simt::cp_async_commit();
    multiply_values<S>(o, s, values + stage * S::kValueStage);
  }
  store_rows<S>(head_of<T>(params.o, batch, head), params.o.row_stride, first_row + warp * S::kWarpRows,
                params.queries, params.head_dim, own_queries, o, state);
}

}  // namespace attention::sm80

// The accumulators of a warpgroup to global memory, by way of the shared memory its queries came in.
#pragma once

#include "../../simt.h"
#include "../softmax.h"
#include "block.h"
#include "maps.h"
#include "shape.h"
#include "work.h"

namespace attention::sm90 {

// Each warp puts down its 16 rows over `queries`, swizzled as TMA wants them, and sends them off panel by
// panel, as rows from `first_row` on; `empty` hears when they have been read.
template <class S, class T>
DEVICE void store_rows(const Map& map, const Tile& tile, int first_row, T* queries, simt::Mbarrier* empty,
                       float (&o)[S::kWidthTiles][4], RowState& state) {
  constexpr int kWarpRows = kRows / kWarps, kChunk = 8, kChunks = kPanel / kChunk;
  const int lane = simt::thread_index() % kWarp, warp = simt::thread_index() % kWarpgroup / kWarp;
  const float inverse[2] = {simt::reciprocal(quad_sum(state.sum[0])),
                            simt::reciprocal(quad_sum(state.sum[1]))};
  rescale(o, inverse);

  T* const own = queries + warp * kWarpRows * kPanel;
  const auto chunk = [&](int n) {  // of the row that this lane names, columns 8n to 8n + 7
    const int row = lane % 16;
    return own + n / kChunks * kRows * kPanel + row * kPanel + ((n % kChunks) ^ (row % 8)) * kChunk;
  };
  UNROLL_FOR (int n = 0; n + 1 < S::kColumnTiles; n += 2) {
    const std::uint32_t both[4] = {simt::pack<T>(o[n][0], o[n][1]), simt::pack<T>(o[n][2], o[n][3]),
                                   simt::pack<T>(o[n + 1][0], o[n + 1][1]),
                                   simt::pack<T>(o[n + 1][2], o[n + 1][3])};
    simt::stmatrix_x4(chunk(n + lane / 16), both);
  }
  if constexpr (S::kColumnTiles % 2 == 1) {
    constexpr int n = S::kColumnTiles - 1;
    const std::uint32_t last[2] = {simt::pack<T>(o[n][0], o[n][1]), simt::pack<T>(o[n][2], o[n][3])};
    simt::stmatrix_x2(chunk(n), last);
  }
  simt::fence_proxy_async();
  simt::sync_warp();
  if (lane == 0) {
    UNROLL_FOR (int panel = 0; panel < S::kPanels; panel++)
      simt::tma_store(&map.tensor, panel * kPanel, first_row + warp * kWarpRows, tile.head * map.head_step,
                      tile.batch * map.batch_step, own + panel * kRows * kPanel);
    simt::tma_store_commit();
    simt::tma_store_wait_read<0>();
    simt::mbarrier_arrive(empty);
  }
}

}  // namespace attention::sm90

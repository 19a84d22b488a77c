// The same for keys that fit in one tile, as in cross-attention: there a block's time goes to fetching. So
// each has a run of neighbouring tiles of queries, fetches keys and values once a head, and queries ahead,
// into the second of two buffers; and it is small, a consumer and one warp that fetches, so that four share a
// multiprocessor.
#pragma once

#include "../../simt.h"
#include "block.h"
#include "consume.h"
#include "maps.h"
#include "produce.h"
#include "shape.h"
#include "work.h"

namespace attention::sm90 {

// Tiles `first` to `last` - 1 are a block's; none has more than one more than another.
struct Run {
  int first, last, tiles_of_head;

  DEVICE explicit Run(const Work& work) : tiles_of_head(work.tiles_of_head) {
    const int block = simt::block_index(), blocks = simt::block_count();
    const int each = work.tiles / blocks, more = work.tiles % blocks;
    first = block * each + (block < more ? block : more);
    last = first + each + (block < more);
  }
  DEVICE bool begins_head(int tile) const { return tile == first || tile % tiles_of_head == 0; }
  DEVICE bool ends_head(int tile) const { return tile + 1 == last || (tile + 1) % tiles_of_head == 0; }
};

template <class T, class S>
DEVICE void produce_run(const Maps& maps, const Work& work, const Memory<T, S>& memory) {
  const Run run(work);
  Cursor<S::kQueryBuffers> at_queries;
  Cursor<1> at_keys;
  for (int index = run.first; index < run.last; index++) {
    const Tile of = tile_at<S>(work, index);
    simt::mbarrier_wait(memory.queries_empty + at_queries.stage, at_queries.parity ^ 1);
    load_tile<S>(memory.queries + at_queries.stage * S::kQueryTile, maps.q, kRows, of.first_row, of,
                 memory.queries_full + at_queries.stage);
    at_queries.advance();
    if (!run.begins_head(index)) continue;
    simt::mbarrier_wait(memory.keys_empty, at_keys.parity ^ 1);
    load_tile<S>(memory.keys, maps.k, S::kKeys, 0, of, memory.keys_full);
    simt::mbarrier_wait(memory.values_empty, at_keys.parity ^ 1);
    load_tile<S>(memory.values, maps.v, S::kKeys, 0, of, memory.values_full);
    at_keys.advance();
  }
}

template <class T, class S>
DEVICE void consume_run(const Maps& maps, const Work& work, const Memory<T, S>& memory) {
  const Run run(work);
  Cursor<S::kQueryBuffers> at_queries;
  Cursor<1> at_keys;
  for (int index = run.first; index < run.last; index++) {
    const Tile of = tile_at<S>(work, index);
    const bool begins = run.begins_head(index), ends = run.ends_head(index);
    T* const queries = memory.queries + at_queries.stage * S::kQueryTile;
    float s[S::kKeyTiles][4], o[S::kWidthTiles][4], correction[2];
    std::uint32_t p[S::kKeySteps][4];
    RowState state{};

    simt::mbarrier_wait(memory.queries_full + at_queries.stage, at_queries.parity);
    if (begins) simt::mbarrier_wait(memory.keys_full, at_keys.parity);
    multiply_keys<S>(s, queries, memory.keys);
    simt::wgmma_wait<0>(s);
    if (ends) release(memory.keys_empty);
    mask_keys(s, work.last_keys);
    softmax_tile<true>(s, state, correction, work.scale_log2);
    UNROLL_FOR (int step = 0; step < S::kKeySteps; step++) pack_fragment<T>(p[step], s, step);
    // Or the exponentials stay in registers until the end, where the sum is wanted: with o and p, too many.
    UNROLL_FOR (int r = 0; r < 2; r++) simt::compute_now(state.sum[r]);

    UNROLL_FOR (int n = 0; n < S::kWidthTiles; n++)
      UNROLL_FOR (int i = 0; i < 4; i++) o[n][i] = 0.0f;
    if (begins) simt::mbarrier_wait(memory.values_full, at_keys.parity);
    multiply_values<S>(o, p, memory.values);
    simt::wgmma_wait<0>(o);
    if (ends) {
      release(memory.values_empty);
      at_keys.advance();
    }
    meet<S>(0);  // nobody reads the queries any more, over which o is staged
    store_rows<S>(maps.o, of, of.first_row, queries, memory.queries_empty + at_queries.stage, o, state);
    at_queries.advance();
  }
}

// Threads 0 to 127 multiply, 128 fetches.
template <class T, class S>
KERNEL void LAUNCH_BOUNDS(S::kThreads, S::kBlocks)
    attention_runs(const GRID_CONSTANT Maps maps, const GRID_CONSTANT Work work) {
  DYNAMIC_SHARED(shared);
  const Memory<T, S> memory(shared);
  if (simt::thread_index() == 0) memory.make_barriers();
  simt::sync_block();
  if (simt::warpgroup_index() == 0)
    consume_run(maps, work, memory);
  else if (simt::thread_index() == kWarpgroup)
    produce_run(maps, work, memory);
}

}  // namespace attention::sm90

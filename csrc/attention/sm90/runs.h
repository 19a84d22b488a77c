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

// Where a block is in its tiles, of which none has more than one more than another. It counts on, because
// to divide for each tile would be a tenth of its instructions.
struct Run {
  const int heads, tiles_of_head;
  int left;            // tiles
  int head, within;    // among those of all samples; the tile among those of the head
  bool begins = true;  // a head, or the run

  DEVICE explicit Run(const Work& work) : heads(work.heads), tiles_of_head(work.tiles_of_head) {
    const int block = simt::block_index(), blocks = simt::block_count();
    const int each = work.tiles / blocks, more = work.tiles % blocks;
    const int first = block * each + (block < more ? block : more);
    left = each + (block < more);
    head = first / tiles_of_head;
    within = first % tiles_of_head;
  }
  DEVICE bool ends() const { return left == 1 || within + 1 == tiles_of_head; }
  template <class S>
  DEVICE Tile tile() const {
    return {head / heads, head % heads, within * S::kBlockRows};
  }
  DEVICE void advance() {
    left--;
    begins = ++within == tiles_of_head;
    if (!begins) return;
    within = 0;
    head++;
  }
};

template <class T, class S>
DEVICE void produce_run(const Maps& maps, const Work& work, const Memory<T, S>& memory) {
  Cursor<S::kQueryBuffers> at_queries;
  Cursor<1> at_keys;
  for (Run run(work); run.left > 0; run.advance()) {
    const Tile of = run.tile<S>();
    simt::mbarrier_wait(memory.queries_empty + at_queries.stage, at_queries.parity ^ 1);
    load_tile<S>(memory.queries + at_queries.stage * S::kQueryTile, maps.q, kRows, of.first_row, of,
                 memory.queries_full + at_queries.stage);
    at_queries.advance();
    if (!run.begins) continue;
    simt::mbarrier_wait(memory.keys_empty, at_keys.parity ^ 1);
    load_tile<S>(memory.keys, maps.k, S::kKeys, 0, of, memory.keys_full);
    simt::mbarrier_wait(memory.values_empty, at_keys.parity ^ 1);
    load_tile<S>(memory.values, maps.v, S::kKeys, 0, of, memory.values_full);
    at_keys.advance();
  }
}

template <class T, class S>
DEVICE void consume_run(const Maps& maps, const Work& work, const Memory<T, S>& memory) {
  Cursor<S::kQueryBuffers> at_queries;
  Cursor<1> at_keys;
  for (Run run(work); run.left > 0; run.advance()) {
    const bool ends = run.ends();
    T* const queries = memory.queries + at_queries.stage * S::kQueryTile;
    float s[S::kKeyTiles][4], o[S::kWidthTiles][4], correction[2];
    std::uint32_t p[S::kKeySteps][4];
    RowState state{};

    simt::mbarrier_wait(memory.queries_full + at_queries.stage, at_queries.parity);
    simt::mbarrier_wait(memory.keys_full, at_keys.parity);  // long ended, but for the first tile of a head
    multiply_keys<S>(s, queries, memory.keys);
    simt::wgmma_wait<0>(s);
    if (ends) release(memory.keys_empty);
    if (work.last_keys > S::kKeys - 8)  // 77, what a text encoder of CLIP's gives
      mask_keys<S::kKeyTiles - 1>(s, work.last_keys);
    else
      mask_keys(s, work.last_keys);
    softmax_tile<true>(s, state, correction, work.scale_log2);
    UNROLL_FOR (int step = 0; step < S::kKeySteps; step++) pack_fragment<T>(p[step], s, step);
    // Or the exponentials stay in registers until the end, where the sum is wanted: with o and p, too many.
    UNROLL_FOR (int r = 0; r < 2; r++) simt::compute_now(state.sum[r]);

    UNROLL_FOR (int n = 0; n < S::kWidthTiles; n++)
      UNROLL_FOR (int i = 0; i < 4; i++) o[n][i] = 0.0f;
    simt::mbarrier_wait(memory.values_full, at_keys.parity);
    multiply_values<S>(o, p, memory.values);
    simt::wgmma_wait<0>(o);
    if (ends) {
      release(memory.values_empty);
      at_keys.advance();
    }
    meet<S>(0);  // nobody reads the queries any more, over which o is staged
    const Tile of = run.tile<S>();
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

// The producer: two threads that send for tiles as soon as there is room for them.
#pragma once

#include "../../simt.h"
#include "block.h"
#include "maps.h"
#include "shape.h"
#include "work.h"

namespace attention::sm90 {

// A tile of `rows` rows, panel by panel; `full` hears when all of it is there.
template <class S, class T>
DEVICE void load_tile(T* tile, const Map& map, int rows, int first_row, const Tile& of,
                      simt::Mbarrier* full) {
  simt::mbarrier_arrive_expect(full, S::kPanels * rows * kRowBytes);
  UNROLL_FOR (int panel = 0; panel < S::kPanels; panel++)
    simt::tma_load(tile + panel * rows * kPanel, &map.tensor, panel * kPanel, first_row,
                   of.head * map.head_step, of.batch * map.batch_step, full);
}

// Keys and values, by one thread. The last keys come first: they alone may be fewer than a tile, and so need
// a mask. The keys of a tile go before the values of the one before it, which is when consumers want them.
template <class T, class S>
DEVICE void produce_keys(const Maps& maps, const Work& work, const Memory<T, S>& memory) {
  Cursor<S::kStages> at_keys, at_values;
  const auto send = [&](Cursor<S::kStages>& at, T* tiles, const Map& map, const Tile& of, int tile,
                        simt::Mbarrier* full, simt::Mbarrier* empty) {
    simt::mbarrier_wait(empty + at.stage, at.parity ^ 1);
    load_tile<S>(tiles + at.stage * S::kKeyStage, map, S::kKeys, tile * S::kKeys, of, full + at.stage);
    at.advance();
  };
  simt::prefetch(&maps.k.tensor);
  simt::prefetch(&maps.v.tensor);
  for (int index = simt::block_index(); index < work.tiles; index += simt::block_count()) {
    const Tile of = tile_at<S>(work, index);
    for (int j = work.key_tiles - 1; j >= -1; j--) {
      if (j >= 0) send(at_keys, memory.keys, maps.k, of, j, memory.keys_full, memory.keys_empty);
      if (j < work.key_tiles - 1)
        send(at_values, memory.values, maps.v, of, j + 1, memory.values_full, memory.values_empty);
    }
  }
}

// Queries, by another thread: it may wait for a consumer to store its result while keys go on to the others.
template <class T, class S>
DEVICE void produce_queries(const Maps& maps, const Work& work, const Memory<T, S>& memory) {
  Cursor<1> at_queries;
  simt::prefetch(&maps.q.tensor);
  for (int index = simt::block_index(); index < work.tiles; index += simt::block_count()) {
    const Tile of = tile_at<S>(work, index);
    UNROLL_FOR (int c = 0; c < S::kConsumers; c++) {
      simt::mbarrier_wait(memory.queries_empty + c, at_queries.parity ^ 1);
      load_tile<S>(memory.queries + c * S::kQueryTile, maps.q, kRows, of.first_row + c * kRows, of,
                   memory.queries_full + c);
    }
    at_queries.advance();
  }
}

}  // namespace attention::sm90

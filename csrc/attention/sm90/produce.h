// The producer: one thread that sends for tiles, as soon as there is room for them.
#pragma once

#include "../../simt.h"
#include "block.h"
#include "maps.h"
#include "shape.h"
#include "work.h"

namespace attention::sm90 {

// A tile of `rows` rows, panel by panel; `full` hears when all of it is there.
template <class S, class T>
DEVICE void load_tile(T* tile, const simt::TensorMap* map, int rows, int first_row, const Tile& of,
                      simt::Mbarrier* full) {
  simt::mbarrier_arrive_expect(full, S::kPanels * rows * kRowBytes);
  UNROLL_FOR (int panel = 0; panel < S::kPanels; panel++)
    simt::tma_load(tile + panel * rows * kPanel, map, panel * kPanel, first_row, of.head, of.batch, full);
}

// The last keys come first: they alone may be fewer than a tile, and so need a mask.
template <class T, class S>
DEVICE void produce(const Maps& maps, const Work& work, const Memory<T, S>& memory) {
  simt::prefetch(&maps.q);
  simt::prefetch(&maps.k);
  simt::prefetch(&maps.v);
  Cursor<S::kStages> at;
  Cursor<1> turn;
  for (int index = simt::block_index(); index < work.tiles; index += simt::block_count()) {
    const Tile tile = tile_at<S>(work, index);
    for (int j = work.key_tiles - 1; j >= 0; j--) {
      simt::mbarrier_wait(memory.keys_free + at.stage, at.parity ^ 1);
      load_tile<S>(memory.keys + at.stage * S::kKeyTile, &maps.k, S::kKeys, j * S::kKeys, tile,
                   memory.keys_full + at.stage);
      if (j == work.key_tiles - 1) {
        UNROLL_FOR (int c = 0; c < S::kConsumers; c++) {
          simt::mbarrier_wait(memory.queries_free + c, turn.parity ^ 1);
          load_tile<S>(memory.queries + c * S::kQueryTile, &maps.q, kRows, tile.first_row + c * kRows, tile,
                       memory.queries_full + c);
        }
      }
      simt::mbarrier_wait(memory.values_free + at.stage, at.parity ^ 1);
      load_tile<S>(memory.values + at.stage * S::kKeyTile, &maps.v, S::kKeys, j * S::kKeys, tile,
                   memory.values_full + at.stage);
      at.advance();
    }
    turn.advance();
  }
}

}  // namespace attention::sm90

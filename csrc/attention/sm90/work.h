// What there is to do, and in which order: tiles of queries, each against all tiles of keys.
#pragma once

#include "../../simt.h"
#include "../params.h"
#include "../softmax.h"
#include "shape.h"

namespace attention::sm90 {

struct Work {
  int heads, tiles_of_head, tiles;  // of queries
  int key_tiles, last_keys;         // the last tile of keys may have fewer
  float scale_log2;                 // of the logits, for powers of 2
};

template <class S>
Work work_of(const Params& params) {
  const int tiles_of_head = divide_up(params.queries, S::kBlockRows);
  const int key_tiles = divide_up(params.keys, S::kKeys);
  return {params.heads,
          tiles_of_head,
          tiles_of_head * params.heads * params.batch,
          key_tiles,
          params.keys - (key_tiles - 1) * S::kKeys,
          params.scale * kLog2E};
}

// The queries that a block works on at one time. Neighbours share a head, so that its keys stay in L2.
struct Tile {
  int batch, head, first_row;
};

template <class S>
DEVICE Tile tile_at(const Work& work, int index) {
  const int head = index / work.tiles_of_head;
  return {head / work.heads, head % work.heads, index % work.tiles_of_head * S::kBlockRows};
}

}  // namespace attention::sm90

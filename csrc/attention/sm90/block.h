// What a block shares: tiles and barriers.
#pragma once

#include "../../simt.h"
#include "shape.h"

namespace attention::sm90 {

// Shared memory. `full` is for what has arrived, and `empty` for what may be overwritten: each warp of each
// consumer says so.
template <class T, class S>
struct Memory {
  T* queries;  // [buffers][panels][64][64], one for each consumer or two for the one; o is staged there
  T* keys;     // [stages][panels][keys][64]
  T* values;
  simt::Mbarrier *keys_full, *keys_empty, *values_full, *values_empty;  // [stages]
  simt::Mbarrier *queries_full, *queries_empty;                         // [buffers]

  DEVICE explicit Memory(unsigned char* shared)
      : queries(reinterpret_cast<T*>(shared)),
        keys(queries + S::kQueryBuffers * S::kQueryTile),
        values(keys + S::kStages * S::kKeyStage),
        keys_full(reinterpret_cast<simt::Mbarrier*>(shared + S::kTileBytes)),
        keys_empty(keys_full + S::kStages),
        values_full(keys_empty + S::kStages),
        values_empty(values_full + S::kStages),
        queries_full(values_empty + S::kStages),
        queries_empty(queries_full + S::kQueryBuffers) {}

  // By the first thread alone, before anything else.
  DEVICE void make_barriers() const {
    for (int i = 0; i < S::kStages; i++) {
      simt::mbarrier_init(keys_full + i, 1);
      simt::mbarrier_init(keys_empty + i, S::kConsumers * kWarps);
      simt::mbarrier_init(values_full + i, 1);
      simt::mbarrier_init(values_empty + i, S::kConsumers * kWarps);
    }
    for (int i = 0; i < S::kQueryBuffers; i++) {
      simt::mbarrier_init(queries_full + i, 1);
      simt::mbarrier_init(queries_empty + i, kWarps);
    }
    simt::fence_mbarrier_init();
  }
};

// The next stage to fill or to use, and the parity of its barriers' phase.
template <int kStages>
struct Cursor {
  int stage = 0, parity = 0;

  DEVICE void advance() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

}  // namespace attention::sm90

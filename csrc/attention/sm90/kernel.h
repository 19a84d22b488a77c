// softmax(scale q k^T) v on sm_90: one warpgroup fetches, the others multiply, each block for as many tiles
// of queries as it is given.
#pragma once

#include "../../simt.h"
#include "block.h"
#include "consume.h"
#include "maps.h"
#include "produce.h"
#include "shape.h"
#include "work.h"

namespace attention::sm90 {

template <class T, class S>
KERNEL void LAUNCH_BOUNDS(S::kThreads, S::kBlocks)
    attention_fwd(const GRID_CONSTANT Maps maps, const GRID_CONSTANT Work work) {
  DYNAMIC_SHARED(shared);
  const Memory<T, S> memory(shared);
  if (simt::thread_index() == 0) memory.make_barriers();
  simt::sync_block();
  const int warpgroup = simt::warpgroup_index();
  if (warpgroup == 0) {
    if constexpr (S::kSharesRegisters) simt::give_registers<S::kProducerRegisters>();
    if (simt::thread_index() == 0) produce_keys(maps, work, memory);
    if (simt::thread_index() == kWarp) produce_queries(maps, work, memory);
  } else {
    if constexpr (S::kSharesRegisters) simt::take_registers<S::kConsumerRegisters>();
    consume(maps, work, memory, warpgroup - 1);
  }
}

}  // namespace attention::sm90

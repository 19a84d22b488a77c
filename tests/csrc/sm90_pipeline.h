// A producer and two consumers over two stages, with every instruction of sm_90: o = sum over tiles of
// (q k^T) v, as attention without its softmax. It is right with no bug asked for; a `Bug` leaves one thing
// out, or does it too early.
#pragma once

#include <cstdint>

#include "simt.h"

enum class Bug {
  kNone,
  kNoWaitForFull,
  kNoWaitForEmpty,
  kEmptyBeforeWait,
  kOneWarpTells,
  kParityStays,
  kNoProxyFence,
  kNoBarrierBeforeStore,
  kWaitNamesOther,
};

namespace pipeline {

constexpr int kRows = 64, kTile = 64, kStages = 2, kConsumers = 2, kGroup = 128;
constexpr int kThreads = kGroup * (1 + kConsumers);
constexpr int kTileBytes = kTile * 128, kRowsBytes = kRows * 128;

// In shared memory: q of each consumer, then k and v of each stage, then the barriers.
constexpr int kKeys = kConsumers * kRowsBytes, kValues = kKeys + kStages * kTileBytes;
constexpr int kBarriers = kValues + kStages * kTileBytes;
constexpr int kSharedBytes = kBarriers + (1 + 2 * kStages) * 8;

struct Maps {
  simt::TensorMap q, k, v, o;
};

DEVICE void produce(const Maps& maps, int tiles, unsigned char* shared, simt::Mbarrier* queries,
                    simt::Mbarrier* full, simt::Mbarrier* empty, Bug bug) {
  simt::mbarrier_arrive_expect(queries, kConsumers * kRowsBytes);
  for (int i = 0; i < kConsumers; i++)
    simt::tma_load(shared + i * kRowsBytes, &maps.q, 0, i * kRows, 0, 0, queries);
  for (int tile = 0; tile < tiles; tile++) {
    const int stage = tile % kStages, turn = tile / kStages;
    if (bug != Bug::kNoWaitForEmpty)
      simt::mbarrier_wait(&empty[stage], bug == Bug::kParityStays ? 1 : ~turn & 1);
    simt::mbarrier_arrive_expect(&full[stage], 2 * kTileBytes);
    simt::tma_load(shared + kKeys + stage * kTileBytes, &maps.k, 0, tile * kTile, 0, 0, &full[stage]);
    simt::tma_load(shared + kValues + stage * kTileBytes, &maps.v, 0, tile * kTile, 0, 0, &full[stage]);
  }
}

template <class T>
DEVICE void consume(const Maps& maps, int tiles, int consumer, unsigned char* shared, simt::Mbarrier* queries,
                    simt::Mbarrier* full, simt::Mbarrier* empty, Bug bug) {
  const int lane = simt::thread_index() % 32, warp = simt::thread_index() % kGroup / 32;
  unsigned char* const own = shared + consumer * kRowsBytes;
  const std::uint64_t q = simt::matrix_descriptor(own, 0, 1024);
  float o[8][4] = {}, s[8][4];
  std::uint32_t p[4][4];
  simt::mbarrier_wait(queries, 0);
  for (int tile = 0; tile < tiles; tile++) {
    const int stage = tile % kStages;
    const std::uint64_t k = simt::matrix_descriptor(shared + kKeys + stage * kTileBytes, 0, 1024);
    const std::uint64_t v = simt::matrix_descriptor(shared + kValues + stage * kTileBytes, 0, 1024);
    if (bug != Bug::kNoWaitForFull) simt::mbarrier_wait(&full[stage], tile / kStages & 1);
    simt::wgmma_fence();
    UNROLL_FOR (int step = 0; step < 4; step++)
      simt::wgmma_shared<T, 64>(s, q + 2 * step, k + 2 * step, step > 0);
    simt::wgmma_commit();
    if (bug == Bug::kWaitNamesOther)
      simt::wgmma_wait<0>(o);
    else
      simt::wgmma_wait<0>(s);
    UNROLL_FOR (int step = 0; step < 4; step++)
      UNROLL_FOR (int i = 0; i < 4; i++)
        p[step][i] = simt::pack<T>(s[2 * step + i / 2][2 * (i % 2)], s[2 * step + i / 2][2 * (i % 2) + 1]);
    simt::wgmma_fence(o, p);
    UNROLL_FOR (int step = 0; step < 4; step++) simt::wgmma_registers<T, 64>(o, p[step], v + 128 * step);
    simt::wgmma_commit();
    if (bug == Bug::kEmptyBeforeWait && lane == 0) simt::mbarrier_arrive(&empty[stage]);
    simt::wgmma_wait<0>(o);
    if (bug == Bug::kOneWarpTells) {
      if (warp == 0 && lane < 4) simt::mbarrier_arrive(&empty[stage]);
    } else if (bug != Bug::kEmptyBeforeWait && lane == 0) {
      simt::mbarrier_arrive(&empty[stage]);
    }
  }
  simt::named_sync(1 + consumer, kGroup);  // all four warps have read q, whose place o takes
  // Rows of this warp: 16, of 8 chunks, each in its swizzled place.
  const int row = 16 * warp + lane % 16;
  UNROLL_FOR (int n = 0; n < 8; n += 2) {
    std::uint32_t pairs[4];
    UNROLL_FOR (int i = 0; i < 4; i++)
      pairs[i] = simt::pack<T>(o[n + i / 2][2 * (i % 2)], o[n + i / 2][2 * (i % 2) + 1]);
    simt::stmatrix_x4(own + 128 * row + 16 * ((n + lane / 16) ^ row % 8), pairs);
  }
  if (bug != Bug::kNoProxyFence) simt::fence_proxy_async();
  if (bug != Bug::kNoBarrierBeforeStore) simt::named_sync(1 + consumer, kGroup);
  if (warp == 0 && lane == 0) {
    simt::tma_store(&maps.o, 0, consumer * kRows, 0, 0, own);
    simt::tma_store_commit();
    simt::tma_store_wait_read<0>();
  }
}

template <class T>
KERNEL void LAUNCH_BOUNDS(kThreads, 1) run(const GRID_CONSTANT Maps maps, int tiles, Bug bug) {
  DYNAMIC_SHARED(shared);
  auto* const queries = reinterpret_cast<simt::Mbarrier*>(shared + kBarriers);
  simt::Mbarrier *const full = queries + 1, *const empty = full + kStages;
  if (simt::thread_index() == 0) {
    simt::mbarrier_init(queries, 1);
    for (int i = 0; i < kStages; i++) {
      simt::mbarrier_init(&full[i], 1);
      simt::mbarrier_init(&empty[i], 4 * kConsumers);
    }
    simt::fence_mbarrier_init();
  }
  simt::sync_block();
  const int group = simt::thread_index() / kGroup;
  if (group == 0) {
    simt::give_registers<24>();
    if (simt::thread_index() == 0) produce(maps, tiles, shared, queries, full, empty, bug);
  } else {
    simt::take_registers<240>();
    consume<T>(maps, tiles, group - 1, shared, queries, full, empty, bug);
  }
}

}  // namespace pipeline

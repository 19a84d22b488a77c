// What the small kernels of tests/csrc/test_emulator_sm90.py share.
#pragma once

#include <cstdint>

#include "simt.h"

using Bytes = unsigned char;

// `in` and `out` are 64 rows of 64 16-bit elements, `load` and `store` maps of them with one box; `short_in`
// claims 16 rows more than there are, and `not_encoded` nothing.
struct Given {
  const Bytes* in;
  Bytes* out;
  simt::TensorMap load, store, short_in, not_encoded;
};

// Shared memory: two boxes, then the barrier.
constexpr int kBox = 8192, kBarrier = 2 * kBox, kSharedBytes = kBarrier + 64;

DEVICE simt::Mbarrier* barrier_of(Bytes* shared) {
  return reinterpret_cast<simt::Mbarrier*>(shared + kBarrier);
}
DEVICE bool first() { return simt::thread_index() == 0; }

DEVICE void make_barrier(simt::Mbarrier* barrier, int arrivals) {
  if (first()) {
    simt::mbarrier_init(barrier, arrivals);
    simt::fence_mbarrier_init();
  }
  simt::sync_block();
}

// By one thread: the box to `to`.
DEVICE void send_for(void* to, const simt::TensorMap& map, simt::Mbarrier* barrier, int bytes = kBox) {
  simt::mbarrier_arrive_expect(barrier, bytes);
  simt::tma_load(to, &map, 0, 0, 0, 0, barrier);
}

// Ones of bfloat16 at `to`, each thread its part of `bytes`.
DEVICE void fill_shared(Bytes* to, int bytes = kBox) {
  for (int at = 4 * simt::thread_index(); at < bytes; at += 4 * simt::thread_count())
    simt::store_shared_4(to + at, 0x3f803f80u);
}

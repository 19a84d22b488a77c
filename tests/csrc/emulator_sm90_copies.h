// mbarriers and boxes: what is right, and each thing that is wrong.
#pragma once

#include "emulator_sm90_given.h"

// Each thread stores a word and arrives; those who wait may read all of them.
KERNEL void told_by_every_thread(const Given& given) {
  DYNAMIC_SHARED(shared);
  const int thread = simt::thread_index();
  make_barrier(barrier_of(shared), simt::thread_count());
  simt::store_shared_4(shared + 4 * thread, 100 + thread);
  simt::mbarrier_arrive(barrier_of(shared));
  simt::mbarrier_wait(barrier_of(shared), 0);
  simt::store_global_16(given.out + 16 * thread, simt::load_shared_16(shared + 16 * (31 - thread / 4)));
}

// One lane of a warp arrives for all of it, after they have met.
template <bool kMeet>
void told_by_one_lane(const Given&) {
  DYNAMIC_SHARED(shared);
  const int thread = simt::thread_index();
  make_barrier(barrier_of(shared), simt::thread_count() / 32);
  simt::store_shared_4(shared + 4 * thread, 100 + thread);
  if (kMeet) simt::sync_warp();
  if (thread % 32 == 0) simt::mbarrier_arrive(barrier_of(shared));
  simt::mbarrier_wait(barrier_of(shared), 0);
  simt::load_shared_16(shared + 16 * (31 - thread / 4));
}
KERNEL void told_by_one_lane_after_meeting(const Given& given) { told_by_one_lane<true>(given); }
KERNEL void told_by_one_lane_for_others(const Given& given) { told_by_one_lane<false>(given); }

// One lane waits for all of it.
template <bool kMeet>
void heard_by_one_lane(const Given& given) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 1);
  if (first()) send_for(shared, given.load, barrier_of(shared));
  if (simt::thread_index() % 32 == 0) simt::mbarrier_wait(barrier_of(shared), 0);
  if (kMeet)
    simt::sync_warp();
  else
    simt::shuffle_xor(0.0f, 1);
  simt::load_shared_16(shared + 16 * simt::thread_index());
}
KERNEL void heard_by_one_lane_before_meeting(const Given& given) { heard_by_one_lane<true>(given); }
KERNEL void heard_by_one_lane_for_others(const Given& given) { heard_by_one_lane<false>(given); }

KERNEL void arrives_and_does_not_wait(const Given&) {
  DYNAMIC_SHARED(shared);
  const int thread = simt::thread_index();
  make_barrier(barrier_of(shared), 1);
  if (thread == 32) simt::store_shared_4(shared, 1);
  if (thread == 32) simt::mbarrier_arrive(barrier_of(shared));
  for (int i = 0; i < 20; i++) simt::sync_warp();
  if (thread == 0) simt::store_shared_4(shared, 2);
}

KERNEL void writes_after_it_arrived(const Given&) {
  DYNAMIC_SHARED(shared);
  const int thread = simt::thread_index();
  make_barrier(barrier_of(shared), 1);
  if (thread == 32) simt::mbarrier_arrive(barrier_of(shared));
  if (thread == 32) simt::store_shared_4(shared, 1);
  if (thread == 0) simt::mbarrier_wait(barrier_of(shared), 0);
  for (int i = 0; i < 100; i++) simt::sync_warp();
  if (thread == 0) simt::store_shared_4(shared, 2);
}

// Phases are counted: the third turn writes what the first two have read.
KERNEL void phases_in_turn(const Given& given) {
  DYNAMIC_SHARED(shared);
  simt::Mbarrier *full = barrier_of(shared), *empty = full + 1;
  make_barrier(full, 1);
  make_barrier(empty, simt::thread_count() / 32 - 1);
  for (int turn = 0; turn < 5; turn++) {
    if (first()) {
      simt::mbarrier_wait(empty, ~turn & 1);
      send_for(shared, given.load, full);
    } else if (simt::thread_index() >= 32) {
      simt::mbarrier_wait(full, turn & 1);
      simt::load_shared_16(shared + 16 * (simt::thread_index() % 512));
      simt::sync_warp();
      if (simt::thread_index() % 32 == 0) simt::mbarrier_arrive(empty);
    }
  }
}

KERNEL void not_initialised(const Given&) {
  DYNAMIC_SHARED(shared);
  simt::mbarrier_arrive(barrier_of(shared));
}
KERNEL void initialised_by_another(const Given&) {
  DYNAMIC_SHARED(shared);
  if (first()) simt::mbarrier_init(barrier_of(shared), 1);
  for (int i = 0; i < 20; i++) simt::sync_warp();
  if (simt::thread_index() == 32) simt::mbarrier_arrive(barrier_of(shared));
}
KERNEL void initialised_twice(const Given&) {
  DYNAMIC_SHARED(shared);
  if (first()) simt::mbarrier_init(barrier_of(shared), 1);
  if (first()) simt::mbarrier_init(barrier_of(shared), 1);
}
KERNEL void initialised_for_nobody(const Given&) {
  DYNAMIC_SHARED(shared);
  if (first()) simt::mbarrier_init(barrier_of(shared), 0);
}
KERNEL void initialised_off_8_bytes(const Given&) {
  DYNAMIC_SHARED(shared);
  if (first()) simt::mbarrier_init(reinterpret_cast<simt::Mbarrier*>(shared + 4), 1);
}
KERNEL void not_shown_to_tma(const Given& given) {
  DYNAMIC_SHARED(shared);
  if (!first()) return;
  simt::mbarrier_init(barrier_of(shared), 1);
  send_for(shared, given.load, barrier_of(shared));
}
KERNEL void shown_to_tma_after_meeting(const Given& given) {
  DYNAMIC_SHARED(shared);
  if (first()) simt::mbarrier_init(barrier_of(shared), 1);
  simt::sync_block();
  if (first()) simt::fence_mbarrier_init();
  for (int i = 0; i < 100; i++) simt::sync_warp();
  if (simt::thread_index() == 32) send_for(shared, given.load, barrier_of(shared));
}
KERNEL void one_arrival_more(const Given& given) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 1);
  if (!first()) return;
  simt::mbarrier_arrive_expect(barrier_of(shared), kBox);
  send_for(shared, given.load, barrier_of(shared));
}
KERNEL void fewer_bytes_expected(const Given& given) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 1);
  if (first()) send_for(shared, given.load, barrier_of(shared), kBox - 128);
  simt::mbarrier_wait(barrier_of(shared), 0);
}
KERNEL void more_bytes_expected(const Given& given) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 1);
  if (first()) send_for(shared, given.load, barrier_of(shared), kBox + 128);
  simt::mbarrier_wait(barrier_of(shared), 0);
}
KERNEL void too_many_bytes_expected(const Given&) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 1);
  if (first()) simt::mbarrier_arrive_expect(barrier_of(shared), 1 << 20);
}
KERNEL void no_arrival(const Given&) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 3);
  if (first()) simt::mbarrier_arrive(barrier_of(shared));
  if (simt::thread_index() >= 32) simt::mbarrier_wait(barrier_of(shared), 0);
}
KERNEL void no_such_parity(const Given&) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 1);
  simt::mbarrier_wait(barrier_of(shared), 2);
}
KERNEL void barrier_stored_to(const Given&) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 1);
  if (first()) simt::store_shared_4(shared + kBarrier + 4, 0);
}
KERNEL void barrier_loaded_from(const Given&) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 1);
  if (first()) simt::load_shared_16(shared + kBarrier);
}
KERNEL void barrier_under_a_box(const Given& given) {
  DYNAMIC_SHARED(shared);
  simt::Mbarrier* within = reinterpret_cast<simt::Mbarrier*>(shared + kBox - 8);
  make_barrier(within, 1);
  if (first()) send_for(shared, given.load, within);
}

// Each a thread that sends for a box, and what the others do.
template <class Others>
void loaded(const Given& given, Others others) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 1);
  if (first()) send_for(shared, given.load, barrier_of(shared));
  others(shared);
}

KERNEL void loaded_and_read_at_once(const Given& given) {
  loaded(given, [](Bytes* shared) {
    if (first()) simt::load_shared_16(shared);
  });
}
KERNEL void loaded_and_overwritten(const Given& given) {
  loaded(given, [](Bytes* shared) {
    if (first()) simt::store_shared_4(shared + 4, 1);
  });
}
KERNEL void loaded_and_waited_for_by_another(const Given& given) {
  loaded(given, [](Bytes* shared) {
    if (simt::thread_index() < 32) simt::mbarrier_wait(barrier_of(shared), 0);
    for (int i = 0; i < 200; i++) simt::sync_warp();
    if (simt::thread_index() == 32) simt::load_shared_16(shared);
  });
}
KERNEL void loaded_for_nobody(const Given& given) {
  loaded(given, [](Bytes*) {});
}
KERNEL void loaded_twice_to_one_place(const Given& given) {
  loaded(given, [&](Bytes* shared) {
    if (first()) simt::tma_load(shared, &given.load, 0, 0, 0, 0, barrier_of(shared));
  });
}
KERNEL void loaded_over_what_others_read(const Given& given) {
  DYNAMIC_SHARED(shared);
  fill_shared(shared);
  simt::fence_proxy_async();
  make_barrier(barrier_of(shared), 1);
  if (simt::thread_index() == 32) simt::load_shared_16(shared);
  for (int i = 0; i < 20; i++) simt::sync_warp();
  if (first()) send_for(shared, given.load, barrier_of(shared));
}
KERNEL void loaded_over_unfenced_stores(const Given& given) {
  DYNAMIC_SHARED(shared);
  fill_shared(shared);
  make_barrier(barrier_of(shared), 1);
  if (first()) send_for(shared, given.load, barrier_of(shared));
}
KERNEL void loaded_off_1024_bytes(const Given& given) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 1);
  if (first()) send_for(shared + 128, given.load, barrier_of(shared));
}
KERNEL void loaded_beyond_shared(const Given& given) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 1);
  if (first()) send_for(shared + kBarrier - kBox + 1024, given.load, barrier_of(shared));
}
KERNEL void loaded_beyond_global(const Given& given) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 1);
  simt::mbarrier_arrive_expect(barrier_of(shared), kBox);
  simt::tma_load(shared, &given.short_in, 0, 16, 0, 0, barrier_of(shared));
}
KERNEL void loaded_by_no_map(const Given& given) {
  DYNAMIC_SHARED(shared);
  make_barrier(barrier_of(shared), 1);
  if (first()) send_for(shared, given.not_encoded, barrier_of(shared));
}

// Every thread writes; a thread stores the box.
template <bool kFence, bool kMeet, class Rest>
void stored(const Given& given, Rest rest) {
  DYNAMIC_SHARED(shared);
  fill_shared(shared);
  if (kFence) simt::fence_proxy_async();
  if (kMeet) simt::sync_block();
  if (first()) {
    simt::tma_store(&given.store, 0, 0, 0, 0, shared);
    rest(shared);
  }
}
DEVICE void finish_store() {
  simt::tma_store_commit();
  simt::tma_store_wait_read<0>();
}

KERNEL void stored_and_awaited(const Given& given) {
  stored<true, true>(given, [](Bytes* shared) {
    finish_store();
    simt::store_shared_4(shared, 1);
  });
}
KERNEL void stored_unfenced(const Given& given) {
  stored<false, true>(given, [](Bytes*) { finish_store(); });
}
KERNEL void stored_unordered(const Given& given) {
  stored<true, false>(given, [](Bytes*) { finish_store(); });
}
KERNEL void stored_fenced_too_early(const Given& given) {
  simt::fence_proxy_async();
  stored<false, true>(given, [](Bytes*) { finish_store(); });
}
KERNEL void stored_and_fenced_after_meeting(const Given& given) {
  DYNAMIC_SHARED(shared);
  fill_shared(shared);
  simt::sync_block();
  simt::fence_proxy_async();
  for (int i = 0; i < 100; i++) simt::sync_warp();
  if (first()) simt::tma_store(&given.store, 0, 0, 0, 0, shared);
}
KERNEL void stored_and_overwritten(const Given& given) {
  stored<true, true>(given, [](Bytes* shared) {
    simt::tma_store_commit();
    simt::store_shared_4(shared, 1);
  });
}
KERNEL void stored_and_left(const Given& given) {
  stored<true, true>(given, [](Bytes*) { simt::tma_store_commit(); });
}
KERNEL void stored_and_not_committed(const Given& given) {
  stored<true, true>(given, [](Bytes*) { simt::tma_store_wait_read<0>(); });
}
KERNEL void stored_and_one_group_left(const Given& given) {
  stored<true, true>(given, [](Bytes*) {
    simt::tma_store_commit();
    simt::tma_store_wait_read<1>();
  });
}
KERNEL void stored_by_two(const Given& given) {
  DYNAMIC_SHARED(shared);
  fill_shared(shared);
  simt::fence_proxy_async();
  simt::sync_block();
  if (simt::thread_index() % 32 == 0) {
    simt::tma_store(&given.store, 0, 0, 0, 0, shared);
    finish_store();
  }
}
KERNEL void stored_uninitialised(const Given& given) {
  DYNAMIC_SHARED(shared);
  if (first()) simt::tma_store(&given.store, 0, 0, 0, 0, shared);
}
KERNEL void stored_to_what_is_read_only(const Given& given) {
  DYNAMIC_SHARED(shared);
  fill_shared(shared);
  simt::fence_proxy_async();
  simt::sync_block();
  if (first()) simt::tma_store(&given.load, 0, 0, 0, 0, shared);
}

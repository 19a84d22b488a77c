// Named barriers, registers that change hands, stmatrix: what is right, and each thing that is wrong.
#pragma once

#include "emulator_sm90_given.h"

DEVICE int warp() { return simt::thread_index() / 32; }

// Warps 0 and 1 write; 2 and 3 read, once those have come. `kArrive`: the writers do not wait.
template <bool kArrive>
void handed_over(const Given& given) {
  DYNAMIC_SHARED(shared);
  const int thread = simt::thread_index();
  if (warp() < 2) {
    simt::store_shared_4(shared + 4 * thread, 100 + thread);
    kArrive ? simt::named_arrive(3, 128) : simt::named_sync(3, 128);
  } else {
    simt::named_sync(3, 128);
    simt::store_global_16(given.out + 16 * thread, simt::load_shared_16(shared + 16 * (thread % 16)));
  }
}
KERNEL void handed_over_in_step(const Given& given) { handed_over<false>(given); }
KERNEL void handed_over_without_waiting(const Given& given) { handed_over<true>(given); }

KERNEL void turns_at_two_barriers(const Given&) {
  DYNAMIC_SHARED(shared);
  const int thread = simt::thread_index();
  for (int turn = 0; turn < 5; turn++) {
    if (warp() < 2) {
      if (turn > 0) simt::named_sync(2, 128);
      simt::store_shared_4(shared + 4 * thread, turn);
      simt::named_arrive(1, 128);
    } else {
      simt::named_sync(1, 128);
      simt::load_shared_16(shared + 16 * (thread % 16));
      simt::named_arrive(2, 128);
    }
  }
}
KERNEL void arrival_left_at_the_end(const Given&) {
  if (warp() == 0) simt::named_arrive(5, 64);
}
KERNEL void arrives_and_reads(const Given&) {
  DYNAMIC_SHARED(shared);
  if (warp() == 1) {
    simt::store_shared_4(shared + 4 * (simt::thread_index() % 32), 1);
    simt::named_sync(1, 64);
  }
  if (warp() == 0) {
    simt::named_arrive(1, 64);
    for (int i = 0; i < 100; i++) simt::sync_warp();
    simt::load_shared_16(shared);
  }
}
KERNEL void writes_after_arriving(const Given&) {
  DYNAMIC_SHARED(shared);
  if (warp() == 0) {
    simt::named_arrive(1, 64);
    simt::store_shared_4(shared + 4 * simt::thread_index(), 1);
  }
  if (warp() == 1) {
    simt::named_sync(1, 64);
    for (int i = 0; i < 100; i++) simt::sync_warp();
    simt::load_shared_16(shared);
  }
}
KERNEL void for_different_numbers(const Given&) {
  if (warp() < 2) simt::named_sync(1, warp() == 0 ? 128 : 96);
}
KERNEL void for_half_a_warp(const Given&) { simt::named_sync(1, 48); }
KERNEL void for_more_than_the_block(const Given&) { simt::named_sync(1, 256); }
KERNEL void barrier_16(const Given&) { simt::named_sync(16, 128); }
KERNEL void lanes_at_two_barriers(const Given&) { simt::named_sync(simt::thread_index() % 2, 128); }
KERNEL void comes_twice(const Given&) {
  if (warp() > 0) return;
  simt::named_arrive(1, 128);
  simt::named_arrive(1, 128);
}
KERNEL void nobody_else_comes(const Given&) {
  if (warp() == 2) simt::named_sync(4, 64);
}
KERNEL void both_kinds_of_barrier_0(const Given&) {
  warp() == 0 ? simt::named_sync(0, 128) : simt::sync_block();
}

// 256 threads: a block begins with 256 registers for each, or 128 where it shares its multiprocessor.
DEVICE bool first_group() { return simt::thread_index() < 128; }

KERNEL void registers_change_hands(const Given&) {
  if (first_group()) {
    simt::give_registers<24>();
  } else {
    simt::take_registers<232>();
  }
}
KERNEL void registers_not_given_enough(const Given&) {
  if (first_group()) {
    simt::give_registers<32>();
  } else {
    simt::take_registers<232>();
  }
}
KERNEL void registers_given_upwards(const Given&) {
  simt::give_registers<24>();
  simt::give_registers<32>();
}
KERNEL void registers_taken_downwards(const Given&) {
  if (first_group()) {
    simt::give_registers<24>();
  } else {
    simt::take_registers<128>();
    simt::take_registers<120>();
  }
}
KERNEL void registers_off_a_multiple_of_8(const Given&) { simt::give_registers<28>(); }
KERNEL void registers_too_few(const Given&) { simt::give_registers<16>(); }
KERNEL void registers_by_one_warp(const Given&) {
  if (warp() == 0) simt::give_registers<24>();
}

KERNEL void matrices_stored_off_16_bytes(const Given&) {
  DYNAMIC_SHARED(shared);
  const std::uint32_t fragment[4] = {};
  simt::stmatrix_x4(shared + 512 * warp() + 16 * (simt::thread_index() % 32) + 8, fragment);
}
KERNEL void matrices_stored_and_read(const Given&) {
  DYNAMIC_SHARED(shared);
  const std::uint32_t fragment[4] = {};
  simt::stmatrix_x4(shared + 16 * simt::thread_index(), fragment);
  simt::load_shared_16(shared + 16 * simt::thread_index());
}
KERNEL void matrices_stored_to_one_row(const Given&) {
  DYNAMIC_SHARED(shared);
  const std::uint32_t fragment[2] = {};
  simt::stmatrix_x2(shared + 16 * warp(), fragment);
}

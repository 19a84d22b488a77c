// wgmma: what is right, and each thing that is wrong. Operands are ones: a at the start of shared memory, b
// after it.
#pragma once

#include <cstring>

#include "emulator_sm90_given.h"

constexpr int kTiles = 8;
using Accumulators = float[kTiles][4];

struct Descriptors {
  std::uint64_t a, b;
};

DEVICE Descriptors descriptors(Bytes* shared) {
  return {simt::matrix_descriptor(shared, 0, 1024), simt::matrix_descriptor(shared + kBox, kBox, 1024)};
}

DEVICE Descriptors operands(Bytes* shared) {
  fill_shared(shared, 2 * kBox);
  simt::fence_proxy_async();
  simt::sync_block();
  return descriptors(shared);
}

DEVICE void multiply(Accumulators& d, Descriptors from, bool accumulate = false) {
  simt::wgmma_shared<simt::bfloat16, 64>(d, from.a, from.b, accumulate);
}

DEVICE void store(const Given& given, const float (&quadruple)[4]) {
  simt::Words4 words;
  std::memcpy(words.word, quadruple, sizeof words);
  simt::store_global_16(given.out + 16 * simt::thread_index(), words);
}

// Three products into one place, two groups, one wait: 1 + 3 times 16.
KERNEL void products_in_a_chain(const Given& given) {
  DYNAMIC_SHARED(shared);
  const Descriptors from = operands(shared);
  Accumulators d;
  for (auto& quadruple : d)
    for (float& each : quadruple) each = 1;
  simt::wgmma_fence();
  multiply(d, from, true);
  multiply(d, from, true);
  simt::wgmma_commit();
  simt::wgmma_fence();
  multiply(d, from, true);
  simt::wgmma_commit();
  simt::wgmma_wait<0>(d);
  store(given, d[7]);
}
// The older of two groups lands, the newer has not: 16, and NaN.
KERNEL void only_the_older_group_lands(const Given& given) {
  DYNAMIC_SHARED(shared);
  const Descriptors from = operands(shared);
  Accumulators older, newer;
  simt::wgmma_fence();
  multiply(older, from);
  simt::wgmma_commit();
  simt::wgmma_fence();
  multiply(newer, from);
  simt::wgmma_commit();
  simt::wgmma_wait<1>(older);
  const float seen[4] = {older[0][0], older[7][3], newer[0][0], newer[7][3]};
  simt::wgmma_wait<0>(newer);
  store(given, seen);
}

KERNEL void not_fenced(const Given&) {
  DYNAMIC_SHARED(shared);
  const Descriptors from = operands(shared);
  Accumulators d;
  multiply(d, from);
}
KERNEL void second_group_not_fenced(const Given&) {
  DYNAMIC_SHARED(shared);
  const Descriptors from = operands(shared);
  Accumulators d;
  simt::wgmma_fence();
  multiply(d, from);
  simt::wgmma_commit();
  simt::wgmma_wait<0>(d);
  multiply(d, from, true);
}

// Two products into the same registers, which `write` changes between the fence and the second.
template <class Write>
void products_with_registers(Write write) {
  DYNAMIC_SHARED(shared);
  const Descriptors from = operands(shared);
  Accumulators d = {};
  std::uint32_t a[4] = {};
  for (int turn = 0; turn < 2; turn++) {
    simt::wgmma_fence();
    if (turn == 1) write(d, a);
    simt::wgmma_registers<simt::bfloat16, 64>(d, a, from.b);
    simt::wgmma_commit();
    simt::wgmma_wait<0>(d);
  }
}
KERNEL void accumulators_written_after_the_fence(const Given&) {
  products_with_registers([](Accumulators& d, std::uint32_t (&)[4]) { d[1][1] = 2; });
}
KERNEL void fragment_written_after_the_fence(const Given&) {
  products_with_registers([](Accumulators&, std::uint32_t (&a)[4]) { a[3] = 2; });
}
// Landing is no write: the wait for the one may stand after the fence for the other.
KERNEL void landed_after_the_fence(const Given& given) {
  DYNAMIC_SHARED(shared);
  const Descriptors from = operands(shared);
  Accumulators d = {};
  simt::wgmma_fence();
  multiply(d, from, true);
  simt::wgmma_commit();
  for (int turn = 0; turn < 2; turn++) {
    simt::wgmma_fence();
    simt::wgmma_wait<0>(d);
    multiply(d, from, true);
    simt::wgmma_commit();
  }
  simt::wgmma_wait<0>(d);
  store(given, d[7]);
}

// One product of what `before` left in shared memory, and what happens before the wait.
template <class Before, class Meanwhile>
void product(Before before, Meanwhile meanwhile) {
  DYNAMIC_SHARED(shared);
  const Descriptors from = before(shared);
  Accumulators d;
  simt::wgmma_fence();
  multiply(d, from);
  simt::wgmma_commit();
  meanwhile(shared, d);
  simt::wgmma_wait<0>(d);
}
template <class Before>
void product_of(Before before) {
  product(before, [](Bytes*, Accumulators&) {});
}
template <class Meanwhile>
void product_during(Meanwhile meanwhile) {
  product([](Bytes* shared) { return operands(shared); }, meanwhile);
}

KERNEL void operands_unfenced(const Given&) {
  product_of([](Bytes* shared) {
    fill_shared(shared, 2 * kBox);
    simt::sync_block();
    return descriptors(shared);
  });
}
KERNEL void operands_fenced_by_one(const Given&) {
  product_of([](Bytes* shared) {
    fill_shared(shared, 2 * kBox);
    simt::sync_block();
    if (first()) simt::fence_proxy_async();
    simt::sync_block();
    return descriptors(shared);
  });
}
KERNEL void operands_unordered(const Given&) {
  product_of([](Bytes* shared) {
    fill_shared(shared, 2 * kBox);
    simt::fence_proxy_async();
    return descriptors(shared);
  });
}
KERNEL void operands_uninitialised(const Given&) {
  product_of([](Bytes* shared) {
    fill_shared(shared, 2 * kBox - 1024);
    simt::fence_proxy_async();
    simt::sync_block();
    return descriptors(shared);
  });
}
KERNEL void operand_loaded_and_not_awaited_by_all(const Given& given) {
  product_of([&](Bytes* shared) {
    const Descriptors from = operands(shared);
    make_barrier(barrier_of(shared), 1);
    if (first()) send_for(shared, given.load, barrier_of(shared));
    if (simt::thread_index() < 127) simt::mbarrier_wait(barrier_of(shared), 0);
    return from;
  });
}
KERNEL void operand_stored_to(const Given&) {
  product_during([](Bytes* shared, Accumulators&) {
    if (first()) simt::store_shared_4(shared + kBox, 0);
  });
}
KERNEL void operand_loaded_over(const Given& given) {
  product_during([&](Bytes* shared, Accumulators&) {
    make_barrier(barrier_of(shared), 1);
    if (first()) send_for(shared, given.load, barrier_of(shared));
  });
}
// The wait of a warp says nothing of the other warps' reading.
KERNEL void operand_stored_to_by_one_warp(const Given&) {
  DYNAMIC_SHARED(shared);
  product_during([](Bytes*, Accumulators&) {});
  if (first()) simt::store_shared_4(shared + kBox, 0);
}
KERNEL void accumulators_changed(const Given&) {
  product_during([](Bytes*, Accumulators& d) {
    if (simt::thread_index() == 77) d[3][2] *= 2;
    if (simt::thread_index() == 78) d[3][2] = 2;
  });
}
KERNEL void accumulators_taken_twice(const Given&) {
  DYNAMIC_SHARED(shared);
  const Descriptors from = operands(shared);
  Accumulators d;
  simt::wgmma_fence();
  multiply(d, from);
  simt::wgmma_registers<simt::bfloat16, 40>(reinterpret_cast<float (&)[5][4]>(d), {}, from.b);
}
KERNEL void fragment_changed(const Given&) {
  DYNAMIC_SHARED(shared);
  const Descriptors from = operands(shared);
  Accumulators d = {};
  std::uint32_t a[4] = {};
  simt::wgmma_fence();
  simt::wgmma_registers<simt::bfloat16, 64>(d, a, from.b);
  simt::wgmma_commit();
  if (simt::thread_index() == 5) a[2] = 1;
  simt::wgmma_wait<0>(d);
}
KERNEL void product_left(const Given&) {
  DYNAMIC_SHARED(shared);
  const Descriptors from = operands(shared);
  Accumulators d;
  simt::wgmma_fence();
  multiply(d, from);
  simt::wgmma_commit();
  simt::wgmma_wait<1>(d);
}
KERNEL void product_not_committed(const Given&) {
  DYNAMIC_SHARED(shared);
  const Descriptors from = operands(shared);
  Accumulators d;
  simt::wgmma_fence();
  multiply(d, from);
  simt::wgmma_wait<0>(d);
}
KERNEL void wait_names_other_accumulators(const Given&) {
  DYNAMIC_SHARED(shared);
  const Descriptors from = operands(shared);
  Accumulators d, other;
  simt::wgmma_fence();
  multiply(d, from);
  simt::wgmma_commit();
  simt::wgmma_wait<0>(other);
}

// The descriptor of b, or of a, by what `change` makes of it.
template <class Change>
void described(Change change) {
  product_of([&](Bytes* shared) {
    Descriptors from = operands(shared);
    change(shared, from);
    return from;
  });
}
KERNEL void rows_off_1024_bytes(const Given&) {
  described([](Bytes* shared, Descriptors& from) {
    from.b = simt::matrix_descriptor(shared + kBox + 128, 0, 1024);
  });
}
KERNEL void stride_off_1024_bytes(const Given&) {
  described([](Bytes* shared, Descriptors& from) { from.a = simt::matrix_descriptor(shared, 0, 512); });
}
KERNEL void another_swizzle(const Given&) {
  described([](Bytes*, Descriptors& from) { from.a ^= std::uint64_t{3} << 62; });
}
KERNEL void a_base_offset(const Given&) {
  described([](Bytes*, Descriptors& from) { from.a |= std::uint64_t{1} << 49; });
}
KERNEL void depth_beyond_the_row(const Given&) {
  described([](Bytes*, Descriptors& from) { from.b += 7; });
}
KERNEL void operand_beyond_shared(const Given&) {
  described([](Bytes* shared, Descriptors& from) {
    from.b = simt::matrix_descriptor(shared + 2 * kBox - 1024, 0, 1024);
  });
}
KERNEL void leading_off_1024_bytes(const Given&) {
  DYNAMIC_SHARED(shared);
  operands(shared);
  float d[10][4] = {};
  simt::wgmma_fence();
  simt::wgmma_registers<simt::bfloat16, 80>(d, {}, simt::matrix_descriptor(shared, 128, 1024));
}
KERNEL void columns_beyond_the_row(const Given&) {
  DYNAMIC_SHARED(shared);
  operands(shared);
  float d[8][4] = {};
  simt::wgmma_fence();
  simt::wgmma_registers<simt::bfloat16, 64>(d, {}, simt::matrix_descriptor(shared + 16, 0, 1024));
}
KERNEL void threads_differ(const Given&) {
  described([](Bytes*, Descriptors& from) {
    if (simt::thread_index() == 64) from.b += 2;
  });
}
KERNEL void one_warp_commits_alone(const Given&) {
  DYNAMIC_SHARED(shared);
  const Descriptors from = operands(shared);
  Accumulators d;
  simt::wgmma_fence();
  multiply(d, from);
  if (simt::thread_index() < 32) simt::wgmma_commit();
  simt::wgmma_wait<0>(d);
}
KERNEL void one_warp_returns(const Given&) {
  if (simt::thread_index() >= 96) return;
  simt::wgmma_fence();
}
KERNEL void no_whole_warpgroup(const Given&) { simt::wgmma_fence(); }

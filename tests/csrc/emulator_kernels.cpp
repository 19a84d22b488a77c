// Small kernels for tests/csrc/test_emulator.py: each does one thing right or one thing wrong.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "simt.h"

using Bytes = unsigned char;

// A word each, and a read of the 16 bytes that hold it and three neighbours, with `Between` in between.
template <class Between>
void neighbours(Bytes* out, Between between) {
  DYNAMIC_SHARED(shared);
  const int thread = simt::thread_index();
  simt::store_shared_4(shared + 4 * thread, 100 + thread);
  between(shared);
  simt::store_global_16(out + 16 * thread, simt::load_shared_16(shared + 16 * (thread / 4)));
}

KERNEL void ordered_by_nothing(const Bytes*, Bytes* out) {
  neighbours(out, [](Bytes*) {});
}
KERNEL void ordered_by_a_shuffle(const Bytes*, Bytes* out) {
  neighbours(out, [](Bytes*) { simt::shuffle_xor(0.0f, 1); });
}
KERNEL void ordered_by_the_warp(const Bytes*, Bytes* out) {
  neighbours(out, [](Bytes*) { simt::sync_warp(); });
}
KERNEL void ordered_by_the_block(const Bytes*, Bytes* out) {
  neighbours(out, [](Bytes*) { simt::sync_block(); });
}

// The same of the other warp's words.
template <class Between>
void far_neighbours(Bytes* out, Between between) {
  DYNAMIC_SHARED(shared);
  const int thread = simt::thread_index();
  simt::store_shared_4(shared + 4 * thread, 100 + thread);
  between();
  simt::store_global_16(out + 16 * thread, simt::load_shared_16(shared + 16 * ((thread ^ 32) / 4)));
}

KERNEL void other_warp_ordered_by_the_warp(const Bytes*, Bytes* out) {
  far_neighbours(out, [] { simt::sync_warp(); });
}
KERNEL void other_warp_ordered_by_the_block(const Bytes*, Bytes* out) {
  far_neighbours(out, [] { simt::sync_block(); });
}

KERNEL void written_by_two(const Bytes*, Bytes*) {
  DYNAMIC_SHARED(shared);
  simt::store_shared_4(shared + simt::thread_index() / 2 * 4, 1);
}
KERNEL void written_after_a_read(const Bytes*, Bytes*) {
  DYNAMIC_SHARED(shared);
  const int thread = simt::thread_index();
  simt::store_shared_4(shared + 4 * thread, 1);
  simt::sync_block();
  simt::load_shared_16(shared + 16 * (thread / 4));
  simt::shuffle_xor(0.0f, 1);  // all have read, and still nothing says so
  simt::store_shared_4(shared + 4 * thread, 2);
}
KERNEL void read_before_written(const Bytes*, Bytes*) {
  DYNAMIC_SHARED(shared);
  simt::load_shared_16(shared);
}

KERNEL void copied_and_awaited(const Bytes* in, Bytes* out) {
  DYNAMIC_SHARED(shared);
  const int at = 16 * simt::thread_index();
  simt::cp_async_16(shared + at, in + at, 8);
  simt::cp_async_commit();
  simt::cp_async_wait<0>();
  simt::store_global_16(out + at, simt::load_shared_16(shared + at));
}
KERNEL void copied_and_read_too_early(const Bytes* in, Bytes*) {
  DYNAMIC_SHARED(shared);
  const int at = 16 * simt::thread_index();
  simt::cp_async_16(shared + at, in + at, 16);
  simt::cp_async_commit();
  simt::load_shared_16(shared + at);
}
KERNEL void copied_and_overwritten(const Bytes* in, Bytes*) {
  DYNAMIC_SHARED(shared);
  const int at = 16 * simt::thread_index();
  simt::cp_async_16(shared + at, in + at, 16);
  simt::store_shared_4(shared + at, 1);
}
KERNEL void copied_and_read_by_others(const Bytes* in, Bytes*) {
  DYNAMIC_SHARED(shared);
  const int at = 16 * simt::thread_index();
  simt::cp_async_16(shared + at, in + at, 16);
  simt::cp_async_commit();
  simt::sync_block();
  simt::cp_async_wait<0>();
  simt::load_shared_16(shared + (at ^ 16));
}
KERNEL void copied_and_left(const Bytes* in, Bytes*) {
  DYNAMIC_SHARED(shared);
  simt::cp_async_16(shared + 16 * simt::thread_index(), in, 16);
}

KERNEL void one_returns(const Bytes*, Bytes*) {
  if (simt::thread_index() == 5) return;
  simt::sync_block();
}
KERNEL void two_barriers(const Bytes*, Bytes*) {
  if (simt::thread_index() % 2 == 0)
    simt::sync_block();
  else
    simt::sync_block();
}
KERNEL void each_waits_for_the_other(const Bytes*, Bytes*) {
  if (simt::thread_index() % 2 == 0)
    simt::sync_block();
  else
    simt::sync_warp();
}

KERNEL void beyond_shared(const Bytes*, Bytes*) {
  DYNAMIC_SHARED(shared);
  simt::store_shared_4(shared + 4096, 1);
}
KERNEL void between_words(const Bytes*, Bytes*) {
  DYNAMIC_SHARED(shared);
  simt::store_shared_4(shared + 2, 1);
}
KERNEL void beyond_global(const Bytes*, Bytes* out) { simt::store_global_16(out + 1024, {}); }
KERNEL void off_16_bytes(const Bytes*, Bytes* out) { simt::store_global_16(out + 8, {}); }
KERNEL void into_what_is_read_only(const Bytes* in, Bytes*) {
  simt::store_global_16(const_cast<Bytes*>(in) + 16 * simt::thread_index(), {});
}
KERNEL void all_to_one_place(const Bytes*, Bytes* out) { simt::store_global_16(out, {}); }

// 32 rows of 16 bytes are four 8 x 8 matrices; what each lane gets of them, or of the first two.
template <class Load>
void load_matrices(const Bytes* in, Bytes* out, Load load) {
  DYNAMIC_SHARED(shared);
  const int thread = simt::thread_index(), lane = thread % 32;
  simt::cp_async_16(shared + 16 * thread, in + 16 * lane, 16);
  simt::cp_async_commit();
  simt::cp_async_wait<0>();
  simt::sync_block();
  simt::Words4 words{};
  load(words.word, shared + 16 * thread);
  simt::store_global_16(out + 16 * thread, words);
}
KERNEL void matrices(const Bytes* in, Bytes* out) {
  load_matrices(in, out, [](auto& words, Bytes* row) { simt::ldmatrix_x4(words, row); });
}
KERNEL void matrices_transposed(const Bytes* in, Bytes* out) {
  load_matrices(in, out, [](auto& words, Bytes* row) { simt::ldmatrix_x4_trans(words, row); });
}
KERNEL void two_matrices_transposed(const Bytes* in, Bytes* out) {
  load_matrices(in, out, [](auto& words, Bytes* row) {
    std::uint32_t two[2];
    simt::ldmatrix_x2_trans(two, row);
    words[0] = two[0];
    words[1] = two[1];
  });
}

// in: for each lane 16 bytes of a, then for each lane 16 bytes of which 8 are b. c starts at 1.
template <class T>
void multiply(const Bytes* in, Bytes* out) {
  DYNAMIC_SHARED(shared);
  const int thread = simt::thread_index(), lane = thread % 32;
  Bytes* own = shared + 32 * thread;
  simt::cp_async_16(own, in + 16 * lane, 16);
  simt::cp_async_16(own + 16, in + 512 + 16 * lane, 16);
  simt::cp_async_commit();
  simt::cp_async_wait<0>();
  const simt::Words4 a = simt::load_shared_16(own), b = simt::load_shared_16(own + 16);
  float c[4] = {1, 1, 1, 1};
  simt::mma_m16n8k16<T>(c, a.word, b.word[0], b.word[1]);
  simt::Words4 words;
  std::memcpy(words.word, c, sizeof c);
  simt::store_global_16(out + 16 * thread, words);
}
KERNEL void multiply_half(const Bytes* in, Bytes* out) { multiply<simt::half>(in, out); }
KERNEL void multiply_bfloat16(const Bytes* in, Bytes* out) { multiply<simt::bfloat16>(in, out); }

#define NAMED(kernel) {#kernel, &kernel}
static const std::map<std::string, void (*)(const Bytes*, Bytes*)> kKernels = {
    NAMED(ordered_by_nothing),
    NAMED(ordered_by_a_shuffle),
    NAMED(ordered_by_the_warp),
    NAMED(ordered_by_the_block),
    NAMED(other_warp_ordered_by_the_warp),
    NAMED(other_warp_ordered_by_the_block),
    NAMED(written_by_two),
    NAMED(written_after_a_read),
    NAMED(read_before_written),
    NAMED(copied_and_awaited),
    NAMED(copied_and_read_too_early),
    NAMED(copied_and_overwritten),
    NAMED(copied_and_read_by_others),
    NAMED(copied_and_left),
    NAMED(one_returns),
    NAMED(two_barriers),
    NAMED(each_waits_for_the_other),
    NAMED(beyond_shared),
    NAMED(between_words),
    NAMED(beyond_global),
    NAMED(off_16_bytes),
    NAMED(into_what_is_read_only),
    NAMED(all_to_one_place),
    NAMED(matrices),
    NAMED(matrices_transposed),
    NAMED(two_matrices_transposed),
    NAMED(multiply_half),
    NAMED(multiply_bfloat16),
};

// One block of 64 threads with 4096 bytes of shared memory; 1024 bytes at `in` and at `out`.
static void run(const std::string& name, std::uintptr_t in, std::uintptr_t out, std::uint64_t seed,
                int threads) {
  simt::emulator::Options options;
  options.seed = seed;
  options.ranges = {{in, 1024, false}, {out, 1024, true}};
  simt::emulator::Emulation emulation(options);
  simt::launch(kKernels.at(name), 1, threads, 4096, nullptr, reinterpret_cast<const Bytes*>(in),
               reinterpret_cast<Bytes*>(out));
}

static float half_to_float(std::uint16_t bits) { return simt::emulator::to_float(simt::half{bits}); }
static float bfloat16_to_float(std::uint16_t bits) { return simt::emulator::to_float(simt::bfloat16{bits}); }

PYBIND11_MODULE(emulator_kernels, module) {
  module.def("run", &run);
  module.def("half_to_float", pybind11::vectorize(half_to_float));
  module.def("bfloat16_to_float", pybind11::vectorize(bfloat16_to_float));
  module.def("pack_half",
             pybind11::vectorize([](float low, float high) { return simt::pack<simt::half>(low, high); }));
  module.def("pack_bfloat16", pybind11::vectorize([](float low, float high) {
               return simt::pack<simt::bfloat16>(low, high);
             }));
}

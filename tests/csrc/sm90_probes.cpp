// What the instructions of sm_90 do to bytes, one kernel each: the same source for the emulator and, by nvcc,
// for a GPU, whose answers are to be kept in tests/data.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "simt.h"
#include "sm90_pipeline.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

using Bytes = unsigned char;

constexpr int kThreads = 128;
#ifndef __CUDACC__
constexpr std::size_t kSharedLimit = 232448;  // bytes a block may have on sm_90
#endif
constexpr int kBarrierBytes = 16;  // behind what a probe copies

struct Corner {
  int at[4];
};

// Global memory to the start of shared memory as it is, for every proxy to see.
DEVICE void copy_in(Bytes* shared, const Bytes* image, int bytes) {
  for (int at = 16 * simt::thread_index(); at < bytes; at += 16 * kThreads)
    simt::cp_async_16(shared + at, image + at, 16);
  simt::cp_async_commit();
  simt::cp_async_wait<0>();
  simt::fence_proxy_async();
  simt::sync_block();
}

DEVICE void copy_out(Bytes* out, const Bytes* shared, int bytes) {
  for (int at = 16 * simt::thread_index(); at < bytes; at += 16 * kThreads)
    simt::store_global_16(out + at, simt::load_shared_16(shared + at));
}

// The bytes of shared memory that a box becomes.
KERNEL void load_box(const GRID_CONSTANT simt::TensorMap map, Corner corner, int bytes, Bytes* out) {
  DYNAMIC_SHARED(shared);
  auto* barrier = reinterpret_cast<simt::Mbarrier*>(shared + bytes);
  if (simt::thread_index() == 0) {
    simt::prefetch(&map);
    simt::mbarrier_init(barrier, 1);
    simt::fence_mbarrier_init();
  }
  simt::sync_block();
  if (simt::thread_index() == 0) {
    simt::mbarrier_arrive_expect(barrier, bytes);
    simt::tma_load(shared, &map, corner.at[0], corner.at[1], corner.at[2], corner.at[3], barrier);
  }
  simt::mbarrier_wait(barrier, 0);
  copy_out(out, shared, bytes);
}

// What of a tensor a box of these bytes overwrites.
KERNEL void store_box(const GRID_CONSTANT simt::TensorMap map, Corner corner, int bytes, const Bytes* image) {
  DYNAMIC_SHARED(shared);
  copy_in(shared, image, bytes);
  if (simt::thread_index() == 0) {
    simt::tma_store(&map, corner.at[0], corner.at[1], corner.at[2], corner.at[3], shared);
    simt::tma_store_commit();
    simt::tma_store_wait_read<0>();
  }
}

// Four 8 x 8 matrices from registers, 16 bytes a lane, into rows at 16 times `rows[lane]`; the rest is zero.
template <int kMatrices>
KERNEL void store_matrices(const Bytes* fragments, int bytes, Bytes* out) {
  DYNAMIC_SHARED(shared);
  copy_in(shared, fragments, bytes);  // 128 fragments, 128 times 4 bytes of which the first is a row, zeros
  const simt::Words4 fragment = simt::load_shared_16(shared + 16 * simt::thread_index());
  const simt::Words4 row = simt::load_shared_16(shared + 2048 + 16 * simt::thread_index());
  simt::sync_block();
  Bytes* at = shared + 4096 + 16 * row.word[0];
  if constexpr (kMatrices == 4) {
    simt::stmatrix_x4(at, fragment.word);
  } else {
    const std::uint32_t half[2] = {fragment.word[0], fragment.word[1]};
    simt::stmatrix_x2(at, half);
  }
  simt::sync_block();
  copy_out(out, shared + 4096, bytes - 4096);
}

// Where the operands of a product lie, in bytes.
struct Operands {
  int a, a_stride, a_move;
  int b, b_leading, b_stride, b_move;
};

template <int kTiles>
DEVICE void store_accumulators(Bytes* out, const float (&d)[kTiles][4]) {
  UNROLL_FOR (int n = 0; n < kTiles; n++) {
    simt::Words4 words;
    UNROLL_FOR (int i = 0; i < 4; i++) memcpy(&words.word[i], &d[n][i], 4);
    simt::store_global_16(out + 16 * (simt::thread_index() * kTiles + n), words);
  }
}

template <int kTiles>
DEVICE void fill(float (&d)[kTiles][4], float value) {
  UNROLL_FOR (int n = 0; n < kTiles; n++)
    UNROLL_FOR (int i = 0; i < 4; i++) d[n][i] = value;
}

template <class T, int kColumns>
KERNEL void multiply_shared(const Bytes* image, int bytes, Operands at, bool accumulate, Bytes* out) {
  DYNAMIC_SHARED(shared);
  copy_in(shared, image, bytes);
  const std::uint64_t a = simt::matrix_descriptor(shared + at.a, 0, at.a_stride) + at.a_move / 16;
  const std::uint64_t b = simt::matrix_descriptor(shared + at.b, at.b_leading, at.b_stride) + at.b_move / 16;
  float d[kColumns / 8][4];
  fill(d, 1.0f);
  simt::wgmma_fence(d);
  simt::wgmma_shared<T, kColumns>(d, a, b, accumulate);
  simt::wgmma_commit();
  simt::wgmma_wait<0>(d);
  store_accumulators(out, d);
}

// The fragments of a are the first 2048 bytes of the image, 16 a thread.
template <class T, int kColumns>
KERNEL void multiply_registers(const Bytes* image, int bytes, Operands at, bool, Bytes* out) {
  DYNAMIC_SHARED(shared);
  copy_in(shared, image, bytes);
  const simt::Words4 a = simt::load_shared_16(shared + 16 * simt::thread_index());
  const std::uint64_t b = simt::matrix_descriptor(shared + at.b, at.b_leading, at.b_stride) + at.b_move / 16;
  float d[kColumns / 8][4];
  fill(d, 1.0f);
  simt::wgmma_fence(d);
  simt::wgmma_registers<T, kColumns>(d, a.word, b);
  simt::wgmma_commit();
  simt::wgmma_wait<0>(d);
  store_accumulators(out, d);
}

// The host's side: pointers are integers, and belong to the device that runs the probe.
using Address = std::uintptr_t;
using Sizes = std::array<std::uint64_t, 4>;
using Strides = std::array<std::uint64_t, 3>;
using Box = std::array<std::uint32_t, 4>;

static Bytes* pointer(Address address) { return reinterpret_cast<Bytes*>(address); }

static simt::TensorView view_of(Address data, const Sizes& sizes, const Strides& strides, const Box& box) {
  simt::TensorView view{pointer(data), {}, {}, {}};
  for (int i = 0; i < 4; i++) view.sizes[i] = sizes[i];
  for (int i = 0; i < 3; i++) view.strides[i] = strides[i];
  for (int i = 0; i < 4; i++) view.box[i] = box[i];
  return view;
}

static void check(const simt::Status& status) {
  if (status.code != 0) throw std::invalid_argument(status.message);
}

// What a probe may read, and what it may write.
struct Extent {
  Address at;
  std::size_t bytes;
};

using Counts = std::map<std::string, long>;

// On a GPU nothing is counted, and what a probe touches is its own affair.
template <class Kernel, class... Arguments>
Counts run(const std::vector<Extent>& in, const Extent& out, std::uint64_t seed, int threads,
           int shared_bytes, Kernel kernel, Arguments... arguments) {
#ifdef __CUDACC__
  static_cast<void>(in), static_cast<void>(out), static_cast<void>(seed);
  check(simt::launch(kernel, 1, threads, shared_bytes, nullptr, arguments...));
  if (const cudaError_t error = cudaDeviceSynchronize(); error != cudaSuccess)
    throw std::runtime_error(cudaGetErrorString(error));
  return {};
#else
  simt::emulator::Options options;
  options.seed = seed;
  options.shared_limit = kSharedLimit;
  for (const Extent& each : in) options.ranges.push_back({each.at, each.bytes, false});
  options.ranges.push_back({out.at, out.bytes, true});
  simt::emulator::Emulation emulation(options);
  check(simt::launch(kernel, 1, threads, shared_bytes, nullptr, arguments...));
  const simt::emulator::Counters& did = emulation.counters();
  return {{"wgmma", did.wgmma},
          {"multiply_accumulates", did.multiply_accumulates},
          {"boxes", did.boxes},
          {"box_bytes", did.box_bytes}};
#endif
}

static std::size_t bytes_of(const Sizes& sizes, const Strides& strides) {
  std::size_t last = 2 * sizes[0];
  for (int i = 0; i < 3; i++) last += (sizes[i + 1] - 1) * strides[i];
  return last;
}

static int bytes_of(const Box& box) { return static_cast<int>(2 * box[0] * box[1] * box[2] * box[3]); }

static Corner corner_of(const std::array<int, 4>& at) { return {{at[0], at[1], at[2], at[3]}}; }

static void run_load(Address data, const Sizes& sizes, const Strides& strides, const Box& box,
                     const std::array<int, 4>& corner, Address out, std::uint64_t seed) {
  simt::TensorMap map;
  check(simt::encode(map, view_of(data, sizes, strides, box)));
  const int bytes = bytes_of(box);
  run({{data, bytes_of(sizes, strides)}}, {out, static_cast<std::size_t>(bytes)}, seed, kThreads,
      bytes + kBarrierBytes, load_box, map, corner_of(corner), bytes, pointer(out));
}

static void run_store(Address image, Address data, const Sizes& sizes, const Strides& strides, const Box& box,
                      const std::array<int, 4>& corner, std::uint64_t seed) {
  simt::TensorMap map;
  check(simt::encode(map, view_of(data, sizes, strides, box)));
  const int bytes = bytes_of(box);
  run({{image, static_cast<std::size_t>(bytes)}}, {data, bytes_of(sizes, strides)}, seed, kThreads, bytes,
      store_box, map, corner_of(corner), bytes, static_cast<const Bytes*>(pointer(image)));
}

static void run_matrices(int count, Address image, int bytes, Address out, std::uint64_t seed) {
  const auto kernel = count == 4 ? store_matrices<4> : store_matrices<2>;
  const auto size = static_cast<std::size_t>(bytes);
  run({{image, size}}, {out, size - 4096}, seed, kThreads, bytes, kernel,
      static_cast<const Bytes*>(pointer(image)), bytes, pointer(out));
}

using Multiply = void (*)(const Bytes*, int, Operands, bool, Bytes*);

template <class T, int... kColumns>
Multiply find(bool registers, int columns, std::integer_sequence<int, kColumns...>) {
  Multiply found = nullptr;
  ((columns == kColumns ? found = registers ? multiply_registers<T, kColumns> : multiply_shared<T, kColumns>
                        : found),
   ...);
  if (found == nullptr) throw std::invalid_argument("no probe has so many columns");
  return found;
}

static void run_multiply(bool registers, bool is_half, int columns, Address image, int bytes,
                         const std::array<int, 7>& at, bool accumulate, Address out, std::uint64_t seed) {
  using Built = std::integer_sequence<int, 32, 40, 48, 64, 80, 96, 128, 144, 160, 176, 192, 256>;
  const Multiply kernel = is_half ? find<simt::half>(registers, columns, Built{})
                                  : find<simt::bfloat16>(registers, columns, Built{});
  const Operands operands{at[0], at[1], at[2], at[3], at[4], at[5], at[6]};
  run({{image, static_cast<std::size_t>(bytes)}}, {out, static_cast<std::size_t>(64 * columns * 4)}, seed,
      kThreads, bytes, kernel, static_cast<const Bytes*>(pointer(image)), bytes, operands, accumulate,
      pointer(out));
}

static simt::TensorMap rows_of_64(Address data, int rows) {
  simt::TensorMap map;
  const auto count = static_cast<std::uint64_t>(rows);
  check(simt::encode(map, view_of(data, {64, count, 1, 1}, {128, 128 * count, 128 * count}, {64, 64, 1, 1})));
  return map;
}

// [128, 64] for q and o, [keys, 64] for k and v, all bfloat16.
static Counts run_pipeline(Address q, Address k, Address v, Address o, int keys, int bug,
                           std::uint64_t seed) {
  constexpr int kRows = pipeline::kConsumers * pipeline::kRows;
  const std::size_t bytes = 128 * static_cast<std::size_t>(keys);
  const pipeline::Maps maps{rows_of_64(q, kRows), rows_of_64(k, keys), rows_of_64(v, keys),
                            rows_of_64(o, kRows)};
  const int tiles = (keys + pipeline::kTile - 1) / pipeline::kTile;
  return run({{q, 128 * kRows}, {k, bytes}, {v, bytes}}, {o, 128 * kRows}, seed, pipeline::kThreads,
             pipeline::kSharedBytes, pipeline::run<simt::bfloat16>, maps, tiles, static_cast<Bug>(bug));
}

PYBIND11_MODULE(sm90_probes, module) {
  module.def("load", &run_load);
  module.def("store", &run_store);
  module.def("matrices", &run_matrices);
  module.def("multiply", &run_multiply);
  module.def("pipeline", &run_pipeline);
}

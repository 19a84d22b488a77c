// What sm_90 adds, under nvcc: barriers that count bytes, copies of boxes by TMA, named barriers, registers
// that move between warpgroups. A line of PTX for most of them.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "status.h"
#include "tensor_view.h"

namespace simt {

using Mbarrier = std::uint64_t;  // in shared memory
using TensorMap = CUtensorMap;

// Makes `map` from `view`, on the host. The driver's encoder is found at run time: nothing links to libcuda.
inline Status encode(TensorMap& map, const TensorView& view) {
  using Encoder = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                               const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                               CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  constexpr unsigned kCuda12 = 12000;  // the encoder's first version
  static const auto encoder = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, kCuda12,
                                                               cudaEnableDefault, &result);
    const bool is_there = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
    return is_there ? reinterpret_cast<Encoder>(found) : nullptr;
  }();
  if (!encoder) return {cudaErrorNotSupported, "the driver has no cuTensorMapEncodeTiled"};
  const cuuint64_t sizes[] = {view.sizes[0], view.sizes[1], view.sizes[2], view.sizes[3]};
  const cuuint64_t strides[] = {view.strides[0], view.strides[1], view.strides[2]};
  const cuuint32_t box[] = {view.box[0], view.box[1], view.box[2], view.box[3]}, steps[] = {1, 1, 1, 1};
  const CUtensorMapL2promotion promotion = view.promotion == 256   ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B
                                           : view.promotion == 128 ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B
                                                                   : CU_TENSOR_MAP_L2_PROMOTION_NONE;
  const CUresult result = encoder(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 4, view.data, sizes, strides, box,
                                  steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, promotion,
                                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) return {cudaErrorInvalidValue, "cuTensorMapEncodeTiled refuses a tensor"};
  return {0, nullptr};
}

DEVICE int block_count() { return static_cast<int>(gridDim.x); }
// Four warps; by a shuffle the compiler knows that a warp has but one, and keeps what follows from it once.
DEVICE int warpgroup_index() { return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0); }

// PTX ISA, "mbarrier". A phase ends when as many have arrived as `mbarrier_init` said and all expected bytes
// are there.
DEVICE void mbarrier_init(Mbarrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals)
               : "memory");
}
// Between the first thread's `mbarrier_init` and the barrier of the block: TMA sees it as well.
DEVICE void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void mbarrier_arrive(Mbarrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and expects so many more bytes in this phase.
DEVICE void mbarrier_arrive_expect(Mbarrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
// Waits for the end of the phase of this parity: 0 for the first, 1 for the second, 0 for the third. A
// barrier that has just been made counts as one whose phase of parity 1 has ended. For ever, unless the file
// was compiled with -DFEWSTEP_SPIN_LIMIT: spin_limit.h.
DEVICE void mbarrier_wait(Mbarrier* barrier, int parity, [[maybe_unused]] int line = __builtin_LINE()) {
#ifdef FEWSTEP_SPIN_LIMIT
  int tries = 0;
#endif
  std::uint32_t ended;
  do {
    asm volatile(
        "{ .reg .pred ended; mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2; "
        "selp.u32 %0, 1, 0, ended; }"
        : "=r"(ended)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
#ifdef FEWSTEP_SPIN_LIMIT
    if (!ended && ++tries >= FEWSTEP_SPIN_LIMIT) give_up(shared_address(barrier), parity, line);
#endif
  } while (!ended);
}

DEVICE void prefetch(const TensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

// One box of the tensor, whose first element is (c_0, c_1, c_2, c_3), to shared memory aligned to 1024
// bytes. Its bytes, those outside of the tensor too, count for the phase that `barrier` is in.
DEVICE void tma_load(void* shared, const TensorMap* map, int c_0, int c_1, int c_2, int c_3,
                     Mbarrier* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
      "%5, %6}], [%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c_0), "r"(c_1), "r"(c_2), "r"(c_3)
      : "memory");
}
DEVICE void tma_store(const TensorMap* map, int c_0, int c_1, int c_2, int c_3, const void* shared) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
      "r"(shared_address(shared)), "r"(c_0), "r"(c_1), "r"(c_2), "r"(c_3)
      : "memory");
}
DEVICE void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until all but the newest kPending groups of this thread's stores have read shared memory.
template <int kPending>
DEVICE void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
// What this thread has written to shared memory is there for TMA and wgmma.
DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// One of 16 barriers of the block, for `threads` of it, whole warps; 0 is that of sync_block.
DEVICE void named_sync(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
// Counts as having come, without waiting for the others.
DEVICE void named_arrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// The registers of each thread of a warpgroup from now on.
template <int kRegisters>
DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

DEVICE void stmatrix_x4(void* row, const std::uint32_t (&fragment)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
               "r"(fragment[0]), "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3])
               : "memory");
}
DEVICE void stmatrix_x2(void* row, const std::uint32_t (&fragment)[2]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(shared_address(row)),
               "r"(fragment[0]), "r"(fragment[1])
               : "memory");
}

}  // namespace simt

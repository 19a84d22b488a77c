// The device functions of kernels under nvcc: a line of CUDA or PTX for most of them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "status.h"
#ifdef FEWSTEP_SPIN_LIMIT
#include "spin_limit.h"
#endif

#define KERNEL static __global__
#define DEVICE __device__ __forceinline__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#define GRID_CONSTANT __grid_constant__
#define LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define UNROLL_FOR(...) _Pragma("unroll") for (__VA_ARGS__)

namespace simt {

using bfloat16 = __nv_bfloat16;
using half = __half;

struct alignas(16) Words4 {
  std::uint32_t word[4];
};

DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
DEVICE int thread_count() { return static_cast<int>(blockDim.x); }
DEVICE int block_index() { return static_cast<int>(blockIdx.x); }

DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }

DEVICE std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

// 16 bytes, of which the first `filled` come from global memory and the rest are zero.
DEVICE void cp_async_16(void* shared, const void* global, int filled) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(filled)
               : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

DEVICE Words4 load_shared_16(const void* shared) { return *static_cast<const Words4*>(shared); }
DEVICE void store_shared_4(void* shared, std::uint32_t value) {
  *static_cast<std::uint32_t*>(shared) = value;
}
DEVICE void store_global_16(void* global, const Words4& value) { *static_cast<Words4*>(global) = value; }

DEVICE void ldmatrix_x4(std::uint32_t (&fragment)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(shared_address(row))
               : "memory");
}
DEVICE void ldmatrix_x4_trans(std::uint32_t (&fragment)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(shared_address(row))
               : "memory");
}
DEVICE void ldmatrix_x2_trans(std::uint32_t (&fragment)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(fragment[0]), "=r"(fragment[1])
               : "r"(shared_address(row))
               : "memory");
}

// c += a b, 16 x 16 by 16 x 8, accumulated in float.
template <class T>
DEVICE void mma_m16n8k16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b_0, std::uint32_t b_1);

template <>
DEVICE void mma_m16n8k16<bfloat16>(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b_0,
                                   std::uint32_t b_1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_0), "r"(b_1));
}

template <>
DEVICE void mma_m16n8k16<half>(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b_0,
                               std::uint32_t b_1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
      "%1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_0), "r"(b_1));
}

DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
// Whether it is so for any lane; the compiler knows that all get the same answer.
DEVICE bool any_of_warp(bool is_so) { return __any_sync(0xffffffffu, is_so); }

// Two floats as 16-bit values in one word, `low` in the low half.
template <class T>
DEVICE std::uint32_t pack(float low, float high);

template <>
DEVICE std::uint32_t pack<bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

template <>
DEVICE std::uint32_t pack<half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float reciprocal(float x) { return __frcp_rn(x); }
DEVICE float maximum(float a, float b) { return fmaxf(a, b); }
DEVICE float maximum_or_nan(float a, float b) {
  float c;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
}
DEVICE float minus_infinity() { return __int_as_float(0xff800000); }
DEVICE std::uint32_t bits_of(float x) { return __float_as_uint(x); }
DEVICE float float_of(std::uint32_t bits) { return __uint_as_float(bits); }

// The compiler computes x before this, and not where it is first needed.
DEVICE void compute_now(float& x) { asm volatile("" : "+f"(x)); }
// The same where ptxas would put it off: it takes for possible that `never` holds, and x is stored.
DEVICE void compute_now(const std::uint32_t (&x)[4], bool never) {
  asm volatile(
      "{ .reg .pred never; setp.ne.b32 never, %4, 0; @never st.shared.v4.b32 [%5], {%0, %1, %2, %3}; }" ::"r"(
          x[0]),
      "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(static_cast<int>(never)), "r"(0)
      : "memory");
}

template <class... Parameters, class... Arguments>
Status launch(void (*kernel)(Parameters...), long blocks, int threads, std::size_t shared_bytes,
              Stream stream, Arguments... arguments) {
#ifdef FEWSTEP_SPIN_LIMIT
  report_spins();
#endif
  cudaError_t error =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(shared_bytes));
  if (error == cudaSuccess) {
    void* pointers[] = {&arguments...};
    error = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(blocks)),
                             dim3(static_cast<unsigned>(threads)), pointers, shared_bytes,
                             static_cast<cudaStream_t>(stream));
  }
  return {static_cast<int>(error), error == cudaSuccess ? nullptr : cudaGetErrorString(error)};
}

}  // namespace simt

#include "device_sm90.h"
#include "device_wgmma.h"

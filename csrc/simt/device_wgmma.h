// wgmma under nvcc: what a warpgroup of sm_90 multiplies at once, without waiting.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "matrix_descriptor.h"

namespace simt {

// Before the first product of a group: registers that it reads are written, those that it writes are read.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// The same, for products that add to `d`, and for those that read the fragments `a` too: the compiler leaves
// no writing of them for after it.
template <int kTiles>
DEVICE void wgmma_fence(float (&d)[kTiles][4]) {
  UNROLL_FOR (int n = 0; n < kTiles; n++)
    UNROLL_FOR (int i = 0; i < 4; i++) asm volatile("" : "+f"(d[n][i])::"memory");
  wgmma_fence();
}
template <int kTiles, int kSteps>
DEVICE void wgmma_fence(float (&d)[kTiles][4], std::uint32_t (&a)[kSteps][4]) {
  UNROLL_FOR (int step = 0; step < kSteps; step++)
    UNROLL_FOR (int i = 0; i < 4; i++) asm volatile("" : "+r"(a[step][i])::"memory");
  wgmma_fence(d);
}

DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits for all but the newest kPending groups; `d` is complete then, and not before.
template <int kPending, int kTiles>
DEVICE void wgmma_wait(float (&d)[kTiles][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
  UNROLL_FOR (int n = 0; n < kTiles; n++)
    UNROLL_FOR (int i = 0; i < 4; i++) asm volatile("" : "+f"(d[n][i])::"memory");
}

// d = a b, or d += a b: 64 x 16 by 16 x kColumns. Both lie in shared memory with their depth along the rows.
// d is spread as by mma.m16n8k16, warp w of the warpgroup having rows 16w to 16w + 15.
template <class T, int kColumns>
DEVICE void wgmma_shared(float (&d)[kColumns / 8][4], std::uint64_t a, std::uint64_t b, bool accumulate);

// d += a b, with the fragment of `a` in registers, as mma.m16n8k16 takes it, and `b` in shared memory with
// its columns along the rows.
template <class T, int kColumns>
DEVICE void wgmma_registers(float (&d)[kColumns / 8][4], const std::uint32_t (&a)[4], std::uint64_t b);

// Of d, for each number of columns: the operands in the text, and the registers.
#define FLOATS_OF(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define PLACES_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define FLOATS_32 FLOATS_OF(0), FLOATS_OF(1), FLOATS_OF(2), FLOATS_OF(3)
#define PLACES_40 PLACES_32 ", %16, %17, %18, %19"
#define FLOATS_40 FLOATS_32, FLOATS_OF(4)
#define PLACES_48 PLACES_40 ", %20, %21, %22, %23"
#define FLOATS_48 FLOATS_40, FLOATS_OF(5)
#define PLACES_64 PLACES_48 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define FLOATS_64 FLOATS_48, FLOATS_OF(6), FLOATS_OF(7)
#define PLACES_80 PLACES_64 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define FLOATS_80 FLOATS_64, FLOATS_OF(8), FLOATS_OF(9)
#define PLACES_96 PLACES_80 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define FLOATS_96 FLOATS_80, FLOATS_OF(10), FLOATS_OF(11)
#define PLACES_128 \
  PLACES_96 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FLOATS_128 FLOATS_96, FLOATS_OF(12), FLOATS_OF(13), FLOATS_OF(14), FLOATS_OF(15)
#define PLACES_144 PLACES_128 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define FLOATS_144 FLOATS_128, FLOATS_OF(16), FLOATS_OF(17)
#define PLACES_160 \
  PLACES_128 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define FLOATS_160 FLOATS_128, FLOATS_OF(16), FLOATS_OF(17), FLOATS_OF(18), FLOATS_OF(19)
#define PLACES_176 PLACES_160 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define FLOATS_176 FLOATS_160, FLOATS_OF(20), FLOATS_OF(21)
#define PLACES_192 \
  PLACES_160 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define FLOATS_192 FLOATS_160, FLOATS_OF(20), FLOATS_OF(21), FLOATS_OF(22), FLOATS_OF(23)
#define PLACES_256                                                                       \
  PLACES_192                                                                             \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, "   \
  "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, " \
  "%124, %125, %126, %127"
#define FLOATS_256                                                                                      \
  FLOATS_192, FLOATS_OF(24), FLOATS_OF(25), FLOATS_OF(26), FLOATS_OF(27), FLOATS_OF(28), FLOATS_OF(29), \
      FLOATS_OF(30), FLOATS_OF(31)

// For one number of columns and one type. The operands after d: whether to accumulate, a, b. The immediates:
// neither operand negated; a and b as they are (K-major), or of b the transpose (MN-major).
#define WGMMA(T, TYPE, N, I0, I1, I2, I3, I4, I5)                                                           \
  template <>                                                                                               \
  DEVICE void wgmma_shared<T, N>(float (&d)[N / 8][4], std::uint64_t a, std::uint64_t b, bool accumulate) { \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #I0                                                     \
                 ", 0; "                                                                                    \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" PLACES_##N            \
                 "}, %" #I1 ", %" #I2 ", p, 1, 1, 0, 0; }"                                                  \
                 : FLOATS_##N                                                                               \
                 : "r"(static_cast<int>(accumulate)), "l"(a), "l"(b));                                      \
  }                                                                                                         \
  template <>                                                                                               \
  DEVICE void wgmma_registers<T, N>(float (&d)[N / 8][4], const std::uint32_t (&a)[4], std::uint64_t b) {   \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #I0                                                     \
                 ", 0; "                                                                                    \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" PLACES_##N            \
                 "}, {%" #I1 ", %" #I2 ", %" #I3 ", %" #I4 "}, %" #I5 ", p, 1, 1, 1; }"                     \
                 : FLOATS_##N                                                                               \
                 : "r"(1), "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                             \
  }
#define WGMMA_BOTH(...) WGMMA(bfloat16, "bf16", __VA_ARGS__) WGMMA(half, "f16", __VA_ARGS__)
WGMMA_BOTH(32, 16, 17, 18, 19, 20, 21)
WGMMA_BOTH(40, 20, 21, 22, 23, 24, 25)
WGMMA_BOTH(48, 24, 25, 26, 27, 28, 29)
WGMMA_BOTH(64, 32, 33, 34, 35, 36, 37)
WGMMA_BOTH(80, 40, 41, 42, 43, 44, 45)
WGMMA_BOTH(96, 48, 49, 50, 51, 52, 53)
WGMMA_BOTH(128, 64, 65, 66, 67, 68, 69)
WGMMA_BOTH(144, 72, 73, 74, 75, 76, 77)
WGMMA_BOTH(160, 80, 81, 82, 83, 84, 85)
WGMMA_BOTH(176, 88, 89, 90, 91, 92, 93)
WGMMA_BOTH(192, 96, 97, 98, 99, 100, 101)
WGMMA_BOTH(256, 128, 129, 130, 131, 132, 133)

#undef FLOATS_OF
#undef PLACES_32
#undef FLOATS_32
#undef PLACES_40
#undef FLOATS_40
#undef PLACES_48
#undef FLOATS_48
#undef PLACES_64
#undef FLOATS_64
#undef PLACES_80
#undef FLOATS_80
#undef PLACES_96
#undef FLOATS_96
#undef PLACES_128
#undef FLOATS_128
#undef PLACES_144
#undef FLOATS_144
#undef PLACES_160
#undef FLOATS_160
#undef PLACES_176
#undef FLOATS_176
#undef PLACES_192
#undef FLOATS_192
#undef PLACES_256
#undef FLOATS_256
#undef WGMMA
#undef WGMMA_BOTH

}  // namespace simt

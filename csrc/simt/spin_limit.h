// With -DFEWSTEP_SPIN_LIMIT=n a wait for an mbarrier that has looked n times in vain ends its kernel, and the
// process says at its exit which wait it was; without it, nothing here is compiled.
//
// Not by printf: where a kernel calls a function, ptxas has each wgmma waited for before the next, and the
// kernel would not be the one that hangs. So the thread writes to memory of the host, which outlives the
// trap.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>

namespace simt {

static __device__ int4* stuck_wait;

// `barrier` is an address in shared memory. csrc/README.md tells which lies where, and which thread does
// what.
__device__ __forceinline__ void give_up(std::uint32_t barrier, int parity, int line) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const int byte = static_cast<int>(barrier - __cvta_generic_to_shared(shared));
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  *stuck_wait = make_int4(line, byte, parity << 16 | thread, block);
  __threadfence_system();
  __trap();
}

class SpinReport {
 public:
  SpinReport() {
    if (cudaHostAlloc(&found_, sizeof *found_, cudaHostAllocMapped) != cudaSuccess) return;
    *found_ = make_int4(0, 0, 0, 0);
    cudaMemcpyToSymbol(stuck_wait, &found_, sizeof found_);
  }
  ~SpinReport() {
    if (!found_ || found_->x == 0) return;
    std::fprintf(stderr,
                 "fewstep: stuck: line %d waits for parity %d of the mbarrier at byte %d of shared memory: "
                 "block %d, thread %d, %d tries\n",
                 found_->x, found_->z >> 16, found_->y, found_->w, found_->z & 0xffff, FEWSTEP_SPIN_LIMIT);
  }
  SpinReport(const SpinReport&) = delete;
  SpinReport& operator=(const SpinReport&) = delete;

 private:
  int4* found_ = nullptr;
};

// Before the first launch, on the device that launches.
static inline void report_spins() { static SpinReport report; }

}  // namespace simt

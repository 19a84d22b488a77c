// What sm_90 adds, on a CPU: the same names as in device_sm90.h, each done by the emulator and checked.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulator/launch.h"
#include "emulator/tensor.h"

namespace simt {

using Mbarrier = std::uint64_t;

DEVICE int warpgroup_index() { return emulator::Block::running().thread() / emulator::kWarpgroup; }

DEVICE void mbarrier_init(Mbarrier* barrier, int arrivals, Site site = Site::here()) {
  emulator::Block::running().mbarriers().init(barrier, arrivals, site);
}
DEVICE void fence_mbarrier_init() {
  emulator::Block& block = emulator::Block::running();
  block.mbarriers().show(block.clocks().mark(block.thread()));
}
DEVICE void mbarrier_arrive(Mbarrier* barrier, Site site = Site::here()) {
  emulator::Block::running().mbarriers().arrive(barrier, 0, site);
}
DEVICE void mbarrier_arrive_expect(Mbarrier* barrier, int bytes, Site site = Site::here()) {
  emulator::Block::running().mbarriers().arrive(barrier, bytes, site);
}
DEVICE void mbarrier_wait(Mbarrier* barrier, int parity, Site site = Site::here()) {
  emulator::Block::running().mbarriers().wait(barrier, parity, site);
}

DEVICE void prefetch(const TensorMap*) {}

DEVICE void tma_load(void* shared, const TensorMap* map, int c_0, int c_1, int c_2, int c_3,
                     Mbarrier* barrier, Site site = Site::here()) {
  emulator::Block::running().transfers().load(shared, *map, {c_0, c_1, c_2, c_3}, barrier, site);
}
DEVICE void tma_store(const TensorMap* map, int c_0, int c_1, int c_2, int c_3, const void* shared,
                      Site site = Site::here()) {
  emulator::Block::running().transfers().store(*map, {c_0, c_1, c_2, c_3}, shared, site);
}
DEVICE void tma_store_commit() { emulator::Block::running().transfers().commit(); }
template <int kPending>
DEVICE void tma_store_wait_read() {
  emulator::Block::running().transfers().wait_read(kPending);
}
DEVICE void fence_proxy_async() {
  emulator::Block& block = emulator::Block::running();
  block.mbarriers().show(block.clocks().fence_proxy(block.thread()));
}

DEVICE void named_sync(int barrier, int threads, Site site = Site::here()) {
  emulator::Block::running().named().come(barrier, threads, true, site);
}
DEVICE void named_arrive(int barrier, int threads, Site site = Site::here()) {
  emulator::Block::running().named().come(barrier, threads, false, site);
}

template <int kRegisters>
DEVICE void give_registers(Site site = Site::here()) {
  emulator::Block::running().registers().give(kRegisters, site);
}
template <int kRegisters>
DEVICE void take_registers(Site site = Site::here()) {
  emulator::Block::running().registers().take(kRegisters, site);
}

// PTX ISA, "stmatrix": ldmatrix the other way. Lane l gives row l / 4 of matrix m two neighbours, for columns
// 2 (l % 4) and the next; the rows' addresses are those of lanes 8m to 8m+7.
template <int kMatrices>
DEVICE void stmatrix(void* row, const std::uint32_t* fragment, const char* what, Site site) {
  struct Lane {
    void* row;
    const std::uint32_t* fragment;
  } mine{row, fragment};
  emulator::Block& block = emulator::Block::running();
  block.collective(what, mine, site, [&](Lane** lanes) {
    for (int m = 0; m < kMatrices; m++)
      for (int r = 0; r < 8; r++) {
        std::uint32_t pairs[4];
        for (int i = 0; i < 4; i++) pairs[i] = lanes[4 * r + i]->fragment[m];
        block.shared().write(lanes[8 * m + r]->row, 16, block.warp_stamp(), what, site);
        std::memcpy(lanes[8 * m + r]->row, pairs, 16);
      }
  });
}

DEVICE void stmatrix_x4(void* row, const std::uint32_t (&fragment)[4], Site site = Site::here()) {
  stmatrix<4>(row, fragment, "stmatrix.x4", site);
}
DEVICE void stmatrix_x2(void* row, const std::uint32_t (&fragment)[2], Site site = Site::here()) {
  stmatrix<2>(row, fragment, "stmatrix.x2", site);
}

}  // namespace simt

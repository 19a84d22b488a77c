// The device functions of kernels on a CPU: the same names as in device.h, each done by the emulator and
// checked.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulator/launch.h"
#include "emulator/numbers.h"
#include "status.h"

#define KERNEL static
#define DEVICE inline
#define DYNAMIC_SHARED(name) unsigned char* name = simt::emulator::Block::running().shared().base()
#define GRID_CONSTANT
#define LAUNCH_BOUNDS(threads, blocks)
#define UNROLL_FOR(...) for (__VA_ARGS__)

namespace simt {

using emulator::Site;

struct alignas(16) Words4 {
  std::uint32_t word[4];
};

DEVICE int thread_index() { return emulator::Block::running().thread(); }
DEVICE int thread_count() { return emulator::Block::running().threads(); }
DEVICE int block_index() { return emulator::Block::running().index(); }
DEVICE int block_count() { return emulator::Block::running().blocks(); }

// Counted from where dynamic shared memory starts.
DEVICE std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(emulator::Block::running().shared().offset(shared));
}

DEVICE void sync_block(Site site = Site::here()) { emulator::Block::running().sync_block(site); }
DEVICE void sync_warp(Site site = Site::here()) { emulator::Block::running().sync_warp(site); }

DEVICE void cp_async_16(void* shared, const void* global, int filled, Site site = Site::here()) {
  emulator::Block::running().copy(shared, global, 16, filled, site);
}
DEVICE void cp_async_commit() { emulator::Block::running().commit_copies(); }
template <int kPending>
DEVICE void cp_async_wait() {
  emulator::Block::running().wait_copies(kPending);
}

DEVICE Words4 load_shared_16(const void* shared, Site site = Site::here()) {
  emulator::Block& block = emulator::Block::running();
  block.shared().read(shared, 16, block.stamp(), "a load", site);
  Words4 value;
  std::memcpy(&value, shared, sizeof value);
  return value;
}

DEVICE void store_shared_4(void* shared, std::uint32_t value, Site site = Site::here()) {
  emulator::Block& block = emulator::Block::running();
  block.shared().write(shared, 4, block.stamp(), "a store", site);
  std::memcpy(shared, &value, sizeof value);
}

DEVICE void store_global_16(void* global, const Words4& value, Site site = Site::here()) {
  emulator::Block& block = emulator::Block::running();
  block.global().write(global, 16, block.thread_of_launch(), "a store", site);
  std::memcpy(global, &value, sizeof value);
}

// PTX ISA, "ldmatrix": matrix m has its rows at the addresses of lanes 8m to 8m+7. Lane l gets two neighbours
// of row l / 4, in columns 2 (l % 4) and the next; with .trans, of column l / 4.
template <int kMatrices, bool kTransposed>
DEVICE void ldmatrix(std::uint32_t* fragment, const void* row, const char* what, Site site) {
  struct Lane {
    std::uint32_t* fragment;
    const void* row;
  } mine{fragment, row};
  emulator::Block& block = emulator::Block::running();
  block.collective(what, mine, site, [&](Lane** lanes) {
    block.counters().ldmatrix++;
    for (int m = 0; m < kMatrices; m++) {
      std::uint16_t matrix[8][8];
      for (int r = 0; r < 8; r++) {
        block.shared().read(lanes[8 * m + r]->row, 16, block.warp_stamp(), what, site);
        std::memcpy(matrix[r], lanes[8 * m + r]->row, 16);
      }
      for (int l = 0; l < emulator::kWarp; l++) {
        const int at = l / 4, pair = 2 * (l % 4);
        const std::uint32_t low = kTransposed ? matrix[pair][at] : matrix[at][pair];
        const std::uint32_t high = kTransposed ? matrix[pair + 1][at] : matrix[at][pair + 1];
        lanes[l]->fragment[m] = low | high << 16;
      }
    }
  });
}

DEVICE void ldmatrix_x4(std::uint32_t (&fragment)[4], const void* row, Site site = Site::here()) {
  ldmatrix<4, false>(fragment, row, "ldmatrix.x4", site);
}
DEVICE void ldmatrix_x4_trans(std::uint32_t (&fragment)[4], const void* row, Site site = Site::here()) {
  ldmatrix<4, true>(fragment, row, "ldmatrix.x4.trans", site);
}
DEVICE void ldmatrix_x2_trans(std::uint32_t (&fragment)[2], const void* row, Site site = Site::here()) {
  ldmatrix<2, true>(fragment, row, "ldmatrix.x2.trans", site);
}

// PTX ISA, "mma.m16n8k16": with g = lane / 4 and t = lane % 4, register i of A holds row g + 8 (i % 2),
// columns 2t + 8 (i / 2) and the next; register i of B rows 2t + 8i and the next, column g; float i of C row
// g + 8 (i / 2), column 2t + i % 2. Products are summed in order of k, then added to C.
template <class T>
DEVICE void mma_m16n8k16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b_0, std::uint32_t b_1,
                         Site site = Site::here()) {
  struct Lane {
    float* c;
    const std::uint32_t* a;
    std::uint32_t b[2];
  } mine{c, a, {b_0, b_1}};
  emulator::Block& block = emulator::Block::running();
  block.collective("mma.m16n8k16", mine, site, [&](Lane** lanes) {
    block.counters().mma++;
    block.counters().multiply_accumulates += 16 * 16 * 8;
    const auto element = [](std::uint32_t pair, int i) {
      return emulator::to_float(T{static_cast<std::uint16_t>(pair >> 16 * i)});
    };
    float A[16][16], B[16][8], C[16][8] = {};
    for (int l = 0; l < emulator::kWarp; l++) {
      const int g = l / 4, t = l % 4;
      for (int i = 0; i < 4; i++)
        for (int e = 0; e < 2; e++) A[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + e] = element(lanes[l]->a[i], e);
      for (int i = 0; i < 2; i++)
        for (int e = 0; e < 2; e++) B[2 * t + 8 * i + e][g] = element(lanes[l]->b[i], e);
    }
    for (int row = 0; row < 16; row++)
      for (int k = 0; k < 16; k++)
        for (int column = 0; column < 8; column++) C[row][column] += A[row][k] * B[k][column];
    for (int l = 0; l < emulator::kWarp; l++)
      for (int i = 0; i < 4; i++) lanes[l]->c[i] += C[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2];
  });
}

DEVICE float shuffle_xor(float value, int mask, Site site = Site::here()) {
  struct Lane {
    float value;
    int mask;
    float received;
  } mine{value, mask, 0};
  emulator::Block::running().collective("shfl.xor", mine, site, [](Lane** lanes) {
    for (int l = 0; l < emulator::kWarp; l++) lanes[l]->received = lanes[l ^ lanes[l]->mask]->value;
  });
  return mine.received;
}

DEVICE bool any_of_warp(bool is_so, Site site = Site::here()) {
  struct Lane {
    bool is_so, any;
  } mine{is_so, false};
  emulator::Block::running().collective("vote.any", mine, site, [](Lane** lanes) {
    const bool any =
        std::any_of(lanes, lanes + emulator::kWarp, [](const Lane* lane) { return lane->is_so; });
    for (int l = 0; l < emulator::kWarp; l++) lanes[l]->any = any;
  });
  return mine.any;
}

template <class T>
DEVICE std::uint32_t pack(float low, float high) {
  return emulator::to_16_bits<T>(low).bits | std::uint32_t{emulator::to_16_bits<T>(high).bits} << 16;
}

DEVICE float exp2_approx(float x) { return std::exp2(x); }
DEVICE float reciprocal(float x) { return 1.0f / x; }
DEVICE float maximum(float a, float b) { return std::fmax(a, b); }
DEVICE float maximum_or_nan(float a, float b) { return std::isnan(a) || std::isnan(b) ? NAN : maximum(a, b); }
DEVICE float minus_infinity() { return -INFINITY; }
DEVICE std::uint32_t bits_of(float x) { return emulator::to_bits(x); }
DEVICE float float_of(std::uint32_t bits) { return emulator::from_bits(bits); }

DEVICE void compute_now(float&) {}
DEVICE void compute_now(const std::uint32_t (&)[4], bool) {}

template <class... Parameters, class... Arguments>
Status launch(void (*kernel)(Parameters...), long blocks, int threads, std::size_t shared_bytes, Stream,
              Arguments... arguments) {
  emulator::Emulation::current().run(blocks, threads, shared_bytes, [&] { kernel(arguments...); });
  return {0, nullptr};
}

}  // namespace simt

#include "emulator_sm90.h"
#include "emulator_wgmma.h"

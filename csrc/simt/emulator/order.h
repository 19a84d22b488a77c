// Which of two accesses came first, and whether anything made it so: clocks of warps (Lamport; Fidge;
// Mattern).
#pragma once

#include <cstdint>
#include <vector>

namespace simt::emulator {

constexpr int kWarp = 32;

// Who touched memory, and when by the clock of its warp. `lane` is kWarp for an access by a whole warp.
struct Stamp {
  std::int16_t warp = -1;
  std::int16_t lane = 0;
  std::uint32_t clock = 0;
};

// Every warp has a clock that ticks where its lanes' accesses are ordered, and remembers how far it has heard
// of the others'. __syncwarp ticks one clock, a barrier ticks all and tells everyone. Shuffles, ldmatrix and
// mma wait for all lanes but promise nothing about memory, so they do not tick.
class Clocks {
 public:
  explicit Clocks(int warps) : now_(warps, 1), heard_(warps, std::vector<std::uint32_t>(warps, 0)) {}

  void sync_warp(int warp) { now_[warp]++; }

  void sync_block() {
    for (auto& heard : heard_) heard = now_;
    for (auto& clock : now_) clock++;
  }

  Stamp stamp(int warp, int lane) const {
    return {static_cast<std::int16_t>(warp), static_cast<std::int16_t>(lane), now_[warp]};
  }

  // Whether `earlier` is known to have happened by whoever makes `later`.
  bool ordered(const Stamp& earlier, const Stamp& later) const {
    if (earlier.warp != later.warp) return earlier.clock <= heard_[later.warp][earlier.warp];
    if (earlier.clock < later.clock) return true;
    return earlier.lane == later.lane && earlier.lane != kWarp;
  }

  int warps() const { return static_cast<int>(now_.size()); }

 private:
  std::vector<std::uint32_t> now_;
  std::vector<std::vector<std::uint32_t>> heard_;
};

}  // namespace simt::emulator

// Which of two accesses came first, and whether anything made it so: vector clocks (Lamport; Fidge; Mattern).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace simt::emulator {

constexpr int kWarp = 32, kWarpgroup = 128;  // threads

// Who touched memory, and when by its own clock. Actors are the warps, then the products (wgmma) of each
// warpgroup, then the mbarriers, for which boxes land. `lane` is kWarp for an access by a whole warp.
struct Stamp {
  std::int16_t actor = -1;
  std::int16_t lane = 0;
  std::uint32_t clock = 0;

  bool operator==(const Stamp& other) const {
    return actor == other.actor && lane == other.lane && clock == other.clock;
  }
};

// What is known to have happened.
struct Knowledge {
  std::vector<std::uint32_t> all;  // of warps, products of warps, mbarriers: everything up to this clock
  std::vector<std::uint32_t> own;  // empty, or of each thread: what it did itself up to this clock

  void hear(const Knowledge& other);
  void hear(std::size_t what, std::uint32_t clock);
};

// Every thread has a clock. It ticks where the thread's accesses are ordered before something else, and what
// that something knows grows: a barrier tells everyone everything, an mbarrier tells those who wait for it
// what those who arrived knew. What all lanes of a warp know is kept once. Shuffles, ldmatrix and mma wait
// for all lanes but promise nothing about memory, so they do not tick.
class Clocks {
 public:
  explicit Clocks(int warps);

  int warps() const { return warps_; }
  int groups() const { return warps_ * kWarp / kWarpgroup; }
  int mbarrier_actor(int mbarrier) const { return warps_ + groups() + mbarrier; }

  Stamp stamp(int thread) const {
    return {static_cast<std::int16_t>(thread / kWarp), static_cast<std::int16_t>(thread % kWarp),
            now_[thread]};
  }
  Stamp warp_stamp(int warp);  // of an access by all lanes, which know what each of them knows

  // Whether `earlier` is known to have happened by the warp or thread that makes `later`, now.
  bool ordered(const Stamp& earlier, const Stamp& later) const {
    if (earlier.actor < warps_) {
      if (earlier.clock <= heard_[later.actor].all[earlier.actor]) return true;
      if (earlier.actor == later.actor && earlier.lane == later.lane && earlier.lane != kWarp) return true;
    }
    return ordered_by_more(earlier, later);
  }

  // Up to when the accesses of a warp are known to all its lanes.
  std::uint32_t settled(int warp) const { return heard_[warp].all[warp]; }

  void sync_warp(int warp);
  void sync_block();

  // One thread tells, or hears, as by an mbarrier; a warp whose lanes are together, as by a named barrier.
  void release(int thread, Knowledge& to);
  void acquire(int thread, const Knowledge& from);
  void release_warp(int warp, Knowledge& to);
  void acquire_warp(int warp, const Knowledge& from) { heard_[warp].hear(from); }

  // The products of a warpgroup that it waited for have read what they read, as each of its warps knows.
  Stamp finish_products(int group);

  // A box landed in this phase of an mbarrier, counted from 1; `from` then says that the phase has ended.
  Stamp copy_stamp(int mbarrier, std::uint32_t phase) const {
    return {static_cast<std::int16_t>(mbarrier_actor(mbarrier)), 0, phase};
  }
  void end_phase(int mbarrier, std::uint32_t phase, Knowledge& from) const {
    from.hear(2 * warps_ + mbarrier, phase);
  }

  // Something that a thread does now, which those know of that it tells from now on.
  Stamp mark(int thread);

  // fence.proxy.async: what the thread wrote until now may be read by TMA and wgmma, for those who know of
  // it.
  Stamp fence_proxy(int thread);
  bool fenced(const Stamp& written, const Stamp& reader) const;

 private:
  bool ordered_by_more(const Stamp& earlier, const Stamp& later) const;
  std::uint32_t level(int warp);
  void tick(int warp, std::uint32_t last);
  void gather(int warp, Knowledge& to) const;
  void forget_alone(int warp);

  int warps_;
  std::vector<std::uint32_t> now_;                  // [threads]
  std::vector<std::uint32_t> products_;             // [groups] how often each has waited for some
  std::vector<std::vector<std::uint32_t>> fences_;  // [threads] when each was
  std::vector<Knowledge> heard_;                    // [warps] what every lane knows
  std::vector<Knowledge> alone_;                    // [threads] what one lane knows
  std::vector<char> uneven_;                        // [warps] whether its lanes' clocks differ
  std::vector<char> news_;   // [warps] whether a lane has heard more since the lanes were together
  std::vector<char> fresh_;  // [warps] whether some of that has not been looked through
};

}  // namespace simt::emulator

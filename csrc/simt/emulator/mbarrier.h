// The mbarriers of a block: they count arrivals and bytes, phase after phase.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "error.h"
#include "order.h"

namespace simt::emulator {

class Block;

class Mbarriers {
 public:
  explicit Mbarriers(Block& block) : block_(block) {}

  void reset() { all_.clear(); }

  void init(void* at, int arrivals, Site site);
  void show(const Stamp& fence);  // to TMA what the running thread has initialised
  void arrive(void* at, int expected_bytes, Site site);
  void wait(void* at, int parity, Site site);

  // TMA: the mbarrier a copy is for; bytes that have landed; who wrote what lands now.
  int find_for_copy(void* at, Site site);
  void land(int mbarrier, std::size_t bytes, Site site);
  Stamp copy_stamp(int mbarrier) const;

  std::string missing() const;  // what those are missing that threads wait for
  std::string unheard() const;  // which have bytes that nobody waited for; empty if none

 private:
  struct One {
    std::size_t offset;  // bytes from the start of shared memory
    Stamp made;
    Stamp shown;      // to TMA
    int count, left;  // arrivals of a phase, and those that this one lacks
    long bytes = 0;   // expected in this phase and not here
    std::uint32_t phase = 0;
    Knowledge told;   // by those who arrived in this phase
    Knowledge ended;  // by those who arrived in the one before
    std::vector<int> waiting;
    std::size_t landed = 0;   // bytes of this phase
    std::size_t unheard = 0;  // bytes of phases that have ended with nobody having waited since
  };

  int find(void* at, const char* what, Site site) const;
  void complete(int mbarrier, Site site);

  Block& block_;
  std::vector<One> all_;
};

}  // namespace simt::emulator

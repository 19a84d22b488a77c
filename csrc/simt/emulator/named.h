// Named barriers: 16 of a block, each for as many threads as those who come say.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "error.h"
#include "order.h"

namespace simt::emulator {

class Block;

class NamedBarriers {
 public:
  explicit NamedBarriers(Block& block) : block_(block) {}

  void reset() { all_ = {}; }

  // bar.sync, or bar.arrive, which does not wait. Warps come as a whole.
  void come(int barrier, int threads, bool waits, Site site);

  bool open(int barrier) const { return all_[barrier].arrived > 0; }
  std::string missing() const;  // what those are missing that warps wait for

 private:
  struct One {
    int threads = 0, arrived = 0;
    std::uint32_t warps = 0;   // bit i: warp i has come
    std::vector<int> waiting;  // warps
    Knowledge told;            // by those who came
  };

  void check(int barrier, int threads, const char* what, Site site) const;

  Block& block_;
  std::array<One, 16> all_;
};

}  // namespace simt::emulator

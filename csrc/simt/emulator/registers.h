// setmaxnreg: registers that a warpgroup gives back to its block, and those that another takes.
#pragma once

#include <string>
#include <vector>

#include "error.h"

namespace simt::emulator {

class Block;

// A thread starts with an equal share of a multiprocessor's 65536 registers, in steps of 8 and at most 256,
// and the block never has more than that: its pool is empty at first. How many blocks share a multiprocessor
// is not known here: as few as the first setmaxnreg.inc of a warpgroup leaves possible.
class Registers {
 public:
  explicit Registers(Block& block) : block_(block) {}

  void reset();
  void give(int count, Site site);
  void take(int count, Site site);
  std::string missing() const;

 private:
  struct Request {
    int group, count;
  };

  int held(int group) const { return chosen_[group] ? chosen_[group] : start_; }
  int pool() const;
  bool grant(const Request& request);
  void share(int blocks);

  Block& block_;
  int blocks_ = 1;           // that share a multiprocessor
  int start_ = 0;            // registers of a thread at the start
  std::vector<int> chosen_;  // [groups] registers of each thread since; 0 before
  std::vector<Request> waiting_;
};

}  // namespace simt::emulator

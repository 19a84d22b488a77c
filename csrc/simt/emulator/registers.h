// setmaxnreg: registers that a warpgroup gives back to its block, and those that another takes.
#pragma once

#include <string>
#include <vector>

#include "error.h"

namespace simt::emulator {

class Block;

// A block starts with what a launch of its threads leaves each if it is alone on its multiprocessor: 65536
// registers, in steps of 8, at most 256. The pool, empty at first, is all it ever has.
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

  bool grant(const Request& request);

  Block& block_;
  int pool_ = 0;
  std::vector<int> held_;  // [groups] of each thread
  std::vector<Request> waiting_;
};

}  // namespace simt::emulator

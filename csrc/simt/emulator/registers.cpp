#include "registers.h"

#include <algorithm>

#include "block.h"

namespace simt::emulator {

namespace {

constexpr int kOfMultiprocessor = 65536, kStep = 8, kFewest = 24, kMost = 256;

void check(const char* what, int count, Site site) {
  if (count < kFewest || count > kMost || count % kStep != 0)
    fail(std::string("registers: ") + what + " to " + std::to_string(count) +
             "; multiples of 8 from 24 to 256 are allowed",
         site);
}

}  // namespace

void Registers::share(int blocks) {
  blocks_ = blocks;
  start_ = std::min(kMost, kOfMultiprocessor / (blocks * block_.threads()) / kStep * kStep);
}

void Registers::reset() {
  share(1);
  chosen_.assign(block_.threads() / kWarpgroup, 0);
  waiting_.clear();
}

int Registers::pool() const {
  int registers = 0;
  for (const int each : chosen_)
    if (each) registers += (start_ - each) * kWarpgroup;
  return registers;
}

bool Registers::grant(const Request& request) {
  if ((request.count - held(request.group)) * kWarpgroup > pool()) return false;
  chosen_[request.group] = request.count;
  return true;
}

void Registers::give(int count, Site site) {
  check("setmaxnreg.dec", count, site);
  char nothing = 0;
  block_.collective<kWarpgroup>("setmaxnreg.dec", nothing, site, [&](char**) {
    const int group = block_.thread() / kWarpgroup;
    if (count > held(group))
      fail("registers: setmaxnreg.dec from " + std::to_string(held(group)) + " to " + std::to_string(count),
           site);
    grant({group, count});
    std::vector<Request> rest;
    for (const Request& request : waiting_)
      if (grant(request))
        block_.part(kWarpgroup, request.group);
      else
        rest.push_back(request);
    waiting_ = std::move(rest);
  });
}

void Registers::take(int count, Site site) {
  check("setmaxnreg.inc", count, site);
  char nothing = 0;
  if (block_.meet(kWarpgroup, "setmaxnreg.inc", &nothing, site) == nullptr) return;
  const int group = block_.thread() / kWarpgroup;
  while (!chosen_[group] && count < start_) share(blocks_ + 1);
  if (count < held(group))
    fail("registers: setmaxnreg.inc from " + std::to_string(held(group)) + " to " + std::to_string(count),
         site);
  if (grant({group, count})) return block_.part(kWarpgroup);
  waiting_.push_back({group, count});
  block_.suspend("setmaxnreg.inc", site);
}

std::string Registers::missing() const {
  std::string text;
  for (const Request& request : waiting_)
    text += " warpgroup " + std::to_string(request.group) + " needs " +
            std::to_string((request.count - held(request.group)) * kWarpgroup) +
            " registers and the pool has " + std::to_string(pool()) + ",";
  return text;
}

}  // namespace simt::emulator

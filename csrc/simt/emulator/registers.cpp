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

void Registers::reset() {
  const int each = std::min(kMost, kOfMultiprocessor / block_.threads() / kStep * kStep);
  held_.assign(block_.threads() / kWarpgroup, each);
  pool_ = 0;
  waiting_.clear();
}

bool Registers::grant(const Request& request) {
  const int more = (request.count - held_[request.group]) * kWarpgroup;
  if (more > pool_) return false;
  pool_ -= more;
  held_[request.group] = request.count;
  return true;
}

void Registers::give(int count, Site site) {
  check("setmaxnreg.dec", count, site);
  char nothing = 0;
  block_.collective<kWarpgroup>("setmaxnreg.dec", nothing, site, [&](char**) {
    const int group = block_.thread() / kWarpgroup;
    if (count > held_[group])
      fail("registers: setmaxnreg.dec from " + std::to_string(held_[group]) + " to " + std::to_string(count),
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
  if (count < held_[group])
    fail("registers: setmaxnreg.inc from " + std::to_string(held_[group]) + " to " + std::to_string(count),
         site);
  if (grant({group, count})) return block_.part(kWarpgroup);
  waiting_.push_back({group, count});
  block_.suspend("setmaxnreg.inc", site);
}

std::string Registers::missing() const {
  std::string text;
  for (const Request& request : waiting_)
    text += " warpgroup " + std::to_string(request.group) + " needs " +
            std::to_string((request.count - held_[request.group]) * kWarpgroup) +
            " registers and the pool has " + std::to_string(pool_) + ",";
  return text;
}

}  // namespace simt::emulator

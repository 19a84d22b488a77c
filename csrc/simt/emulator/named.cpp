#include "named.h"

#include <utility>

#include "block.h"

namespace simt::emulator {

namespace {

std::string name(int barrier) { return "barrier " + std::to_string(barrier); }

}  // namespace

void NamedBarriers::check(int barrier, int threads, const char* what, Site site) const {
  if (barrier < 0 || barrier >= static_cast<int>(all_.size()))
    fail(std::string("named barrier: ") + what + " " + std::to_string(barrier) + "; 0 to 15 are allowed",
         site);
  if (threads < kWarp || threads > block_.threads() || threads % kWarp != 0)
    fail(std::string("named barrier: ") + what + " for " + std::to_string(threads) +
             " threads; whole warps of the block are allowed",
         site);
  if (barrier == 0 && block_.at_barrier())
    fail("named barrier: " + name(0) + " while others wait at __syncthreads, which is the same", site);
}

void NamedBarriers::come(int barrier, int threads, bool waits, Site site) {
  const char* what = waits ? "bar.sync" : "bar.arrive";
  check(barrier, threads, what, site);
  struct Lane {
    int barrier, threads;
  } mine{barrier, threads};
  void** lanes = block_.meet(kWarp, what, &mine, site);
  if (lanes == nullptr) return;
  for (int lane = 0; lane < kWarp; lane++) {
    const Lane& other = *static_cast<Lane*>(lanes[lane]);
    if (other.barrier != barrier || other.threads != threads)
      fail(std::string("divergence: the lanes of a warp are at different barriers at ") + what, site);
  }
  One& one = all_[barrier];
  const int warp = block_.thread() / kWarp;
  if (one.arrived > 0 && one.threads != threads)
    fail("named barrier: " + name(barrier) + " for " + std::to_string(threads) +
             " threads while others are there for " + std::to_string(one.threads),
         site);
  if (one.warps >> warp & 1u)
    fail("named barrier: warp " + std::to_string(warp) + " comes to " + name(barrier) +
             " a second time before it is complete",
         site);
  one.threads = threads;
  one.arrived += kWarp;
  one.warps |= std::uint32_t{1} << warp;
  block_.clocks().release_warp(warp, one.told);
  if (one.arrived < one.threads) {
    if (!waits) return block_.part(kWarp);
    one.waiting.push_back(warp);
    block_.suspend(what, site);
    return;
  }
  const One complete = std::exchange(one, One{});
  for (const int other : complete.waiting) {
    block_.clocks().acquire_warp(other, complete.told);
    block_.part(kWarp, other);
  }
  if (waits) block_.clocks().acquire_warp(warp, complete.told);
  block_.part(kWarp);
}

std::string NamedBarriers::missing() const {
  std::string text;
  for (std::size_t i = 0; i < all_.size(); i++)
    if (!all_[i].waiting.empty())
      text += " " + name(static_cast<int>(i)) + " has " + std::to_string(all_[i].arrived) + " of " +
              std::to_string(all_[i].threads) + " threads,";
  return text;
}

}  // namespace simt::emulator

// A launch on the emulator: what it may touch, in which order its fibers run, and what it did.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "block.h"

namespace simt::emulator {

struct Options {
  std::uint64_t seed = 0;
  std::size_t shared_limit = 101376;  // bytes a block may have on sm_86, sm_89 and sm_120
  std::vector<Range> ranges;
};

// While one exists, `simt::launch` on this CPU thread runs in it.
class Emulation {
 public:
  explicit Emulation(Options options);
  ~Emulation();
  Emulation(const Emulation&) = delete;
  Emulation& operator=(const Emulation&) = delete;

  static Emulation& current();

  void run(long blocks, int threads, std::size_t shared_bytes, const std::function<void()>& body);
  const Counters& counters() const { return counters_; }

 private:
  Options options_;
  GlobalMemory global_;
  Counters counters_;
};

}  // namespace simt::emulator

#include "launch.h"

#include <numeric>
#include <string>
#include <utility>

namespace simt::emulator {

namespace {

constexpr int kMaxThreads = 1024;

thread_local Emulation* current_emulation = nullptr;

}  // namespace

Emulation::Emulation(Options options) : options_(std::move(options)), global_(options_.ranges) {
  current_emulation = this;
}

Emulation::~Emulation() { current_emulation = nullptr; }

Emulation& Emulation::current() {
  if (current_emulation == nullptr) throw Fault("a kernel is launched outside of an emulation");
  return *current_emulation;
}

void Emulation::run(long blocks, int threads, std::size_t shared_bytes, const std::function<void()>& body) {
  if (threads < 1 || threads > kMaxThreads || threads % kWarp != 0)
    throw Fault("launch: " + std::to_string(threads) +
                " threads a block; whole warps up to 1024 are allowed");
  if (shared_bytes > options_.shared_limit)
    throw Fault("launch: " + std::to_string(shared_bytes) + " bytes of shared memory; at most " +
                std::to_string(options_.shared_limit) + " are allowed");
  Block block(static_cast<int>(blocks), threads, shared_bytes, options_.seed, global_, counters_);
  // Blocks run in no particular order: one after the other, by a step that is coprime to their number.
  long step = static_cast<long>(options_.seed % 7919) * 2 + 1;
  while (std::gcd(step, blocks) != 1) step++;
  for (long i = 0; i < blocks; i++) block.run(static_cast<int>((options_.seed + i) * step % blocks), body);
}

}  // namespace simt::emulator

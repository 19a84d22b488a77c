// One block of threads on one CPU thread: a fiber for each, run in a random order between the places where
// they meet.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <vector>

#include "error.h"
#include "fiber.h"
#include "global.h"
#include "order.h"
#include "shared.h"

namespace simt::emulator {

// What a launch did, summed over its blocks.
struct Counters {
  long blocks = 0;
  long mma = 0;       // warp instructions
  long ldmatrix = 0;  // warp instructions
  long copies = 0;    // cp.async of one thread
  long barriers = 0;  // __syncthreads of a block
};

class Block {
 public:
  Block(int threads, std::size_t shared_bytes, std::uint64_t seed, GlobalMemory& global, Counters& counters);

  // Runs every thread of block `index` to its end, or throws Fault.
  void run(int index, const std::function<void()>& body);

  // The block whose fiber is running.
  static Block& running();

  int thread() const { return current_; }
  int threads() const { return static_cast<int>(fibers_.size()); }
  int index() const { return index_; }
  SharedMemory& shared() { return shared_; }
  GlobalMemory& global() { return global_; }
  Counters& counters() { return counters_; }
  Stamp stamp() const { return clocks_.stamp(current_ / kWarp, current_ % kWarp); }
  Stamp warp_stamp() const { return clocks_.stamp(current_ / kWarp, kWarp); }
  std::uint32_t thread_of_launch() const { return static_cast<std::uint32_t>(index_ * threads() + current_); }

  void sync_block(Site site);
  void sync_warp(Site site);

  // All 32 lanes of a warp meet at `what`; the last to come calls `perform` with every lane's argument.
  template <class Argument, class Perform>
  void collective(const char* what, Argument& argument, Site site, Perform perform) {
    if (void** lanes = meet(what, &argument, site)) {
      Argument* arguments[kWarp];
      for (int lane = 0; lane < kWarp; lane++) arguments[lane] = static_cast<Argument*>(lanes[lane]);
      perform(arguments);
      part();
    }
  }

  // cp.async: nothing arrives before `wait_copies` leaves at most `pending` groups open.
  void copy(void* to, const void* from, int bytes, int filled, Site site);
  void commit_copies();
  void wait_copies(int pending);

 private:
  struct Copy {
    void* to;
    const void* from;
    int bytes, filled;
  };

  struct Fiber {
    Context context;
    bool done = false;
    const char* waits_for = nullptr;
    Site where{};
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
  };

  // Where threads meet: those of a warp, or those of the block.
  struct Meeting {
    int arrived = 0;
    int gone = 0;  // threads that have returned and will never come
    const char* what = nullptr;
    Site where{};
  };

  static void enter();
  void** meet(const char* what, void* argument, Site site);
  void part();
  bool arrive(Meeting& meeting, int of, const char* what, Site site);
  void release(Meeting& meeting, int first, int count);
  void leave();
  void suspend(const char* what, Site site);
  Context& next();
  std::string deadlock() const;

  Clocks clocks_;
  SharedMemory shared_;
  GlobalMemory& global_;
  Counters& counters_;
  Stacks stacks_;
  std::uint64_t random_;
  int index_ = 0;
  int current_ = 0;
  int done_ = 0;
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr fault_;
  Context scheduler_;
  std::vector<Fiber> fibers_;
  std::vector<int> ready_;
  Meeting block_meeting_;
  std::vector<Meeting> warp_meetings_;
  std::vector<void*> lanes_;  // [threads] the argument each brought to its warp's meeting
};

}  // namespace simt::emulator

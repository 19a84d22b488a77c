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
#include "mbarrier.h"
#include "named.h"
#include "order.h"
#include "products.h"
#include "registers.h"
#include "shared.h"
#include "transfers.h"

namespace simt::emulator {

// What a launch did, summed over its blocks.
struct Counters {
  long blocks = 0;
  long mma = 0;                   // warp instructions
  long wgmma = 0;                 // warpgroup instructions
  long multiply_accumulates = 0;  // of both
  long ldmatrix = 0;              // warp instructions
  long copies = 0;                // cp.async of one thread
  long boxes = 0;                 // loads and stores by TMA
  long box_bytes = 0;             // in shared memory, those outside of the tensor too
  long barriers = 0;              // __syncthreads of a block
};

class Block {
 public:
  Block(int blocks, int threads, std::size_t shared_bytes, std::uint64_t seed, GlobalMemory& global,
        Counters& counters);

  // Runs every thread of block `index` to its end, or throws Fault.
  void run(int index, const std::function<void()>& body);

  // The block whose fiber is running.
  static Block& running();

  int thread() const { return current_; }
  int threads() const { return static_cast<int>(fibers_.size()); }
  int index() const { return index_; }
  int blocks() const { return blocks_; }
  Clocks& clocks() { return clocks_; }
  SharedMemory& shared() { return shared_; }
  GlobalMemory& global() { return global_; }
  Counters& counters() { return counters_; }
  Mbarriers& mbarriers() { return mbarriers_; }
  Transfers& transfers() { return transfers_; }
  NamedBarriers& named() { return named_; }
  Registers& registers() { return registers_; }
  Products& products() { return products_; }
  Stamp stamp() const { return clocks_.stamp(current_); }
  Stamp warp_stamp() { return clocks_.warp_stamp(current_ / kWarp); }
  std::uint32_t thread_of_launch() const { return static_cast<std::uint32_t>(index_ * threads() + current_); }

  void sync_block(Site site);
  void sync_warp(Site site);

  // All threads of a warp, or of a warpgroup, meet at `what`; the last to come calls `perform` with every
  // thread's argument.
  template <int kThreads = kWarp, class Argument, class Perform>
  void collective(const char* what, Argument& argument, Site site, Perform perform) {
    if (void** lanes = meet(kThreads, what, &argument, site)) {
      Argument* arguments[kThreads];
      for (int i = 0; i < kThreads; i++) arguments[i] = static_cast<Argument*>(lanes[i]);
      perform(arguments);
      part(kThreads);
    }
  }

  // The same in two steps, for those that may have to wait together. Only the last to come gets the
  // arguments; the others return from `meet` when someone parts them, as does the last where it is suspended.
  void** meet(int threads, const char* what, void* argument, Site site);
  void part(int threads) { part(threads, current_ / threads); }
  void part(int threads, int which);

  // The running fiber does not run until it is woken; `count` from `first` on may run again.
  void suspend(const char* what, Site site);
  void wake(int first, int count);

  // Whether threads wait at `sync_block`.
  bool at_barrier() const { return block_meeting_.arrived > 0; }

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

  // Where threads meet: those of a warp, of a warpgroup, or of the block.
  struct Meeting {
    int arrived = 0;
    int gone = 0;  // threads that have returned and will never come
    const char* what = nullptr;
    Site where{};
  };

  static void enter();
  bool arrive(Meeting& meeting, int of, const char* what, Site site);
  void release(Meeting& meeting, int first, int count);
  Meeting& meeting(int threads, int which);
  void leave();
  Context& next();
  std::string deadlock() const;

  Clocks clocks_;
  SharedMemory shared_;
  GlobalMemory& global_;
  Counters& counters_;
  Mbarriers mbarriers_{*this};
  Transfers transfers_{*this};
  NamedBarriers named_{*this};
  Registers registers_{*this};
  Products products_{*this};
  Stacks stacks_;
  std::uint64_t random_;
  int blocks_;
  int index_ = 0;
  int current_ = 0;
  int done_ = 0;
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr fault_;
  Context scheduler_;
  std::vector<Fiber> fibers_;
  std::vector<int> ready_;
  Meeting block_meeting_;
  std::vector<Meeting> warp_meetings_, group_meetings_;
  std::vector<void*> lanes_;  // [threads] the argument each brought to its meeting
};

}  // namespace simt::emulator

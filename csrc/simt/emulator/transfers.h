// Copies of boxes by TMA: loads that land when they like, stores that read when they like.
#pragma once

#include <cstddef>
#include <map>
#include <vector>

#include "error.h"
#include "shared.h"
#include "tensor.h"

namespace simt::emulator {

class Block;

class Transfers {
 public:
  explicit Transfers(Block& block) : block_(block) {}

  void reset();

  void load(void* to, const TensorMap& map, const Coordinates& corner, void* mbarrier, Site site);
  std::size_t in_flight() const { return loads_.size(); }
  int sender(std::size_t which) const { return loads_[which].thread; }
  void land(std::size_t which);

  // A store reads shared memory until `wait_read` leaves at most `pending` groups of the thread.
  void store(const TensorMap& map, const Coordinates& corner, const void* from, Site site);
  void commit();
  void wait_read(int pending);
  std::size_t unread(int thread) const;  // stores of a thread that it has not waited for

 private:
  struct Load {
    TensorView view;
    Coordinates corner;
    unsigned char* to;
    int mbarrier, thread;
    Site site;
  };

  using Reads = std::vector<Words>;

  struct Stores {
    std::vector<Reads> open;
    std::vector<std::vector<Reads>> groups;
  };

  const TensorView& view_of(const TensorMap& map, const char* what, Site site) const;
  void count(const TensorView& view);

  Block& block_;
  std::vector<Load> loads_;
  std::map<int, Stores> stores_;  // by thread
};

}  // namespace simt::emulator

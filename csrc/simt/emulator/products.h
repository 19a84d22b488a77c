// wgmma: products of a warpgroup that are under way until it waits for them.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "error.h"
#include "matrix.h"
#include "order.h"
#include "shared.h"

namespace simt::emulator {

class Block;

// What one thread brings to d = a b, or d += a b: 64 x 16 by 16 x columns. `a` is a fragment if it is not
// null.
struct Product {
  float* d;  // columns / 2 of them
  const std::uint32_t* fragment;
  std::uint64_t a, b;
  bool accumulate;
};

class Products {
 public:
  explicit Products(Block& block) : block_(block) {}

  void reset();

  void fence(Site site);
  void multiply(Product mine, int columns, Kind kind, Site site);
  void commit(Site site);

  // Leaves at most `pending` groups open. Of those that are complete, the accumulators `d` land.
  void wait(int pending, float* d, Site site);

  int unfinished(int thread) const;  // accumulators of the thread that have not landed

 private:
  template <class Value>
  using OfThreads = std::array<Value, kWarpgroup>;

  // The accumulators of all threads for one matrix: poisoned where the kernel sees them, their values aside.
  struct Accumulators {
    OfThreads<float*> d;
    int floats;  // of a thread
    std::vector<float> values;
    long group;  // the last that adds to them
    Site site;
  };

  // Registers that a product reads: until it is complete they stay as they were.
  struct Fragments {
    OfThreads<const std::uint32_t*> at;
    OfThreads<std::array<std::uint32_t, 4>> were;
    Site site;
  };

  // Registers that products have used, as they were at the last fence: between it and the next product that
  // takes them nobody may write them.
  struct Watched {
    OfThreads<const void*> at;
    std::size_t bytes;  // of a thread
    std::vector<unsigned char> were;

    void look();
    bool changed() const;
  };

  struct Group {
    std::vector<std::vector<Words>> reads;
    std::vector<Fragments> fragments;
  };

  struct Warpgroup {
    bool fenced = false;
    long complete = 0;          // groups
    std::vector<Group> groups;  // committed
    Group open;
    std::vector<Accumulators> accumulators;
    std::vector<Watched> watched;

    long open_group() const { return complete + static_cast<long>(groups.size()); }
  };

  Warpgroup& mine();
  void start(Product** lanes, int columns, Kind kind, Site site);
  void read_fragments(Product** lanes, Kind kind, float* a, Site site);
  Accumulators& find(Warpgroup& warpgroup, Product** lanes, int floats, Site site);
  template <class Registers>
  void check_unwritten(const OfThreads<Registers*>& at, std::size_t bytes, const char* what, Site site);
  void finish(const Group& group);
  void land(Accumulators& accumulators, Site site);

  Block& block_;
  std::vector<Warpgroup> all_;
};

}  // namespace simt::emulator

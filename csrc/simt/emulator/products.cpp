#include "products.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "block.h"
#include "numbers.h"

namespace simt::emulator {

namespace {

constexpr std::uint32_t kInFlight = 0x7fedcbaeu;  // NaN, until the product has landed

// Where element (row, column) of 64 x 8 is among the floats of thread and register, as mma.m16n8k16 has it,
// warp w owning rows 16 w to 16 w + 15.
int row_of(int thread, int i) { return thread / kWarp * 16 + thread % kWarp / 4 + 8 * (i / 2); }
int column_of(int thread, int i) { return 2 * (thread % 4) + i % 2; }

// c = a b for 8 columns, summed in order of k. a: [64, 16], b: [16, 8], c: [64, 8].
void multiply_tile(const float* a, const float* b, float* c) {
  for (int row = 0; row < kRowsOfA; row++) {
    float sums[kColumns] = {};
    for (int k = 0; k < kDepth; k++) {
      const float factor = a[row * kDepth + k];
      for (int column = 0; column < kColumns; column++) sums[column] += factor * b[k * kColumns + column];
    }
    std::memcpy(c + row * kColumns, sums, sizeof sums);
  }
}

}  // namespace

void Products::reset() {
  all_.clear();
  all_.resize(block_.threads() / kWarpgroup);
}

Products::Warpgroup& Products::mine() { return all_[block_.thread() / kWarpgroup]; }

void Products::fence(Site site) {
  char nothing = 0;
  block_.collective<kWarpgroup>("wgmma.fence", nothing, site, [this](char**) {
    mine().fenced = true;
    for (Watched& each : mine().watched) each.look();
  });
}

void Products::Watched::look() {
  were.resize(bytes * kWarpgroup);
  for (int t = 0; t < kWarpgroup; t++) std::memcpy(&were[t * bytes], at[t], bytes);
}

bool Products::Watched::changed() const {
  for (int t = 0; t < kWarpgroup; t++)
    if (std::memcmp(&were[t * bytes], at[t], bytes) != 0) return true;
  return false;
}

// Known are only registers that an earlier product used: those of the first are watched from now on.
template <class Registers>
void Products::check_unwritten(const OfThreads<Registers*>& at, std::size_t bytes, const char* what,
                               Site site) {
  for (const Watched& each : mine().watched) {
    if (each.at[0] != at[0] || each.bytes != bytes) continue;
    if (each.changed()) fail(std::string("unfenced: ") + what + " were written after wgmma.fence", site);
    return;
  }
  Watched made{{}, bytes, {}};
  std::copy(at.begin(), at.end(), made.at.begin());
  made.look();
  mine().watched.push_back(std::move(made));
}

void Products::multiply(Product product, int columns, Kind kind, Site site) {
  block_.collective<kWarpgroup>("wgmma.mma_async", product, site,
                                [&](Product** lanes) { start(lanes, columns, kind, site); });
}

void Products::start(Product** lanes, int columns, Kind kind, Site site) {
  Warpgroup& warpgroup = mine();
  if (!warpgroup.fenced) fail("unfenced: a group of wgmma that does not begin with wgmma.fence", site);
  for (int t = 0; t < kWarpgroup; t++)
    if (lanes[t]->b != lanes[0]->b || lanes[t]->a != lanes[0]->a ||
        lanes[t]->accumulate != lanes[0]->accumulate)
      fail("divergence: the threads of a warpgroup bring different operands to wgmma", site);

  std::vector<float> a(kRowsOfA * kDepth), b(static_cast<std::size_t>(columns) * kDepth);
  Matrices matrices(block_.shared(), kind, site);
  if (lanes[0]->fragment) {
    read_fragments(lanes, kind, a.data(), site);
    matrices.read_depths(lanes[0]->b, columns, b.data());
  } else {
    matrices.read_rows(lanes[0]->a, kRowsOfA, a.data());
    matrices.read_columns_by_rows(lanes[0]->b, columns, b.data());
  }
  std::vector<Words> words = matrices.take_words();
  std::vector<Stamp> readers;
  const int first = block_.thread() / kWarpgroup * (kWarpgroup / kWarp);
  for (int warp = first; warp < first + kWarpgroup / kWarp; warp++)
    readers.push_back(block_.clocks().warp_stamp(warp));
  block_.shared().begin_reads(words, readers, "wgmma", site);
  warpgroup.open.reads.push_back(std::move(words));

  const int tiles = columns / kColumns, floats = 4 * tiles;
  Accumulators& into = find(warpgroup, lanes, floats, site);
  into.group = warpgroup.open_group();
  into.site = site;
  const bool accumulate = lanes[0]->accumulate;
  for (int tile = 0; tile < tiles; tile++) {
    float c[kRowsOfA * kColumns];
    multiply_tile(a.data(), b.data() + tile * kDepth * kColumns, c);
    for (int t = 0; t < kWarpgroup; t++)
      for (int i = 0; i < 4; i++) {
        float& value = into.values[t * floats + 4 * tile + i];
        const float sum = c[row_of(t, i) * kColumns + column_of(t, i)];
        value = accumulate ? value + sum : sum;
      }
  }
  block_.counters().wgmma++;
  block_.counters().multiply_accumulates += static_cast<long>(kRowsOfA) * kDepth * columns;
}

void Products::read_fragments(Product** lanes, Kind kind, float* a, Site site) {
  Fragments fragments;
  fragments.site = site;
  for (int t = 0; t < kWarpgroup; t++) {
    fragments.at[t] = lanes[t]->fragment;
    std::copy_n(lanes[t]->fragment, 4, fragments.were[t].begin());
    for (int i = 0; i < 4; i++)
      for (int e = 0; e < 2; e++) {
        const int row = row_of(t, 2 * (i % 2)), depth = column_of(t, e) + 8 * (i / 2);
        a[row * kDepth + depth] = element(kind, static_cast<std::uint16_t>(fragments.were[t][i] >> 16 * e));
      }
  }
  check_unwritten(fragments.at, 4 * sizeof(std::uint32_t), "registers of a", site);
  mine().open.fragments.push_back(fragments);
}

// The accumulators that the lanes name: those in flight, or new ones with the values that they have now.
Products::Accumulators& Products::find(Warpgroup& warpgroup, Product** lanes, int floats, Site site) {
  float* const d = lanes[0]->d;
  for (Accumulators& each : warpgroup.accumulators) {
    if (each.d[0] == d && each.floats == floats) return each;
    if (d < each.d[0] + each.floats && each.d[0] < d + floats)
      fail("in flight: wgmma into registers that another is still to fill (" + each.site.text() + ")", site);
  }
  Accumulators made{};
  made.floats = floats;
  made.values.resize(static_cast<std::size_t>(floats) * kWarpgroup);
  for (int t = 0; t < kWarpgroup; t++) {
    made.d[t] = lanes[t]->d;
    std::copy_n(made.d[t], floats, made.values.begin() + t * floats);
  }
  if (lanes[0]->accumulate) check_unwritten(made.d, floats * sizeof(float), "accumulators", site);
  for (float* each : made.d) std::fill_n(each, floats, from_bits(kInFlight));
  warpgroup.accumulators.push_back(std::move(made));
  return warpgroup.accumulators.back();
}

void Products::commit(Site site) {
  char nothing = 0;
  block_.collective<kWarpgroup>("wgmma.commit_group", nothing, site, [this](char**) {
    Warpgroup& warpgroup = mine();
    warpgroup.groups.push_back(std::move(warpgroup.open));
    warpgroup.open = Group{};
    warpgroup.fenced = false;
  });
}

void Products::wait(int pending, float* d, Site site) {
  block_.collective<kWarpgroup>("wgmma.wait_group", *d, site, [&](float** lanes) {
    Warpgroup& warpgroup = mine();
    while (static_cast<int>(warpgroup.groups.size()) > pending) {
      finish(warpgroup.groups.front());
      warpgroup.groups.erase(warpgroup.groups.begin());
      warpgroup.complete++;
    }
    auto& open = warpgroup.accumulators;
    for (std::size_t i = 0; i < open.size(); i++) {
      if (open[i].d[0] != lanes[0] || open[i].group >= warpgroup.complete) continue;
      land(open[i], site);
      open.erase(open.begin() + static_cast<std::ptrdiff_t>(i));
      break;
    }
  });
}

void Products::finish(const Group& group) {
  const Stamp done = block_.clocks().finish_products(block_.thread() / kWarpgroup);
  for (const auto& words : group.reads) block_.shared().end_reads(words, done);
  for (const Fragments& each : group.fragments)
    for (int t = 0; t < kWarpgroup; t++)
      if (!std::equal(each.were[t].begin(), each.were[t].end(), each.at[t]))
        fail("in flight: registers of a were changed before the wait for the wgmma that reads them",
             each.site);
}

void Products::land(Accumulators& accumulators, Site site) {
  for (int t = 0; t < kWarpgroup; t++)
    for (int i = 0; i < accumulators.floats; i++) {
      float& value = accumulators.d[t][i];
      if (to_bits(value) != kInFlight)
        fail("in flight: accumulators of wgmma (" + accumulators.site.text() +
                 ") were changed before the wait",
             site);
      value = accumulators.values[t * accumulators.floats + i];
    }
  for (Watched& each : mine().watched)  // what lands is no write by a thread
    if (each.at[0] == accumulators.d[0]) each.look();
}

int Products::unfinished(int thread) const {
  const std::size_t group = thread / kWarpgroup;
  return group < all_.size() ? static_cast<int>(all_[group].accumulators.size()) : 0;
}

}  // namespace simt::emulator

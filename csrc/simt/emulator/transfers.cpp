#include "transfers.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "block.h"

namespace simt::emulator {

void Transfers::reset() {
  loads_.clear();
  stores_.clear();
}

const TensorView& Transfers::view_of(const TensorMap& map, const char* what, Site site) const {
  if (!map.encoded) fail(std::string("tensor map: ") + what + " by one that was not encoded", site);
  return map.view;
}

void Transfers::count(const TensorView& view) {
  block_.counters().boxes++;
  block_.counters().box_bytes += static_cast<long>(box_rows(view) * kRow);
}

void Transfers::load(void* to, const TensorMap& map, const Coordinates& corner, void* mbarrier, Site site) {
  const TensorView& view = view_of(map, "a TMA load", site);
  const int found = block_.mbarriers().find_for_copy(mbarrier, site);
  for (std::size_t row = 0; row < box_rows(view); row++) {
    const BoxRow inside = box_row(view, corner, row);
    if (inside.bytes() > 0) block_.global().read_row(inside.data, inside.bytes(), "a TMA load", site);
  }
  block_.shared().begin_box(to, box_rows(view) * kRow, block_.stamp(), site);
  loads_.push_back({view, corner, static_cast<unsigned char*>(to), found, block_.thread(), site});
  count(view);
}

void Transfers::land(std::size_t which) {
  const Load load = std::exchange(loads_[which], loads_.back());
  loads_.pop_back();
  const std::size_t rows = box_rows(load.view);
  for (std::size_t row = 0; row < rows; row++) {
    const BoxRow inside = box_row(load.view, load.corner, row);
    unsigned char bytes[kRow] = {};
    if (inside.bytes() > 0) std::memcpy(bytes + inside.first * kElement, inside.data, inside.bytes());
    for (std::size_t at = 0; at < kRow; at += kChunk)
      std::memcpy(load.to + swizzle(row * kRow + at), bytes + at, kChunk);
  }
  block_.shared().land_box(load.to, rows * kRow, block_.mbarriers().copy_stamp(load.mbarrier));
  block_.mbarriers().land(load.mbarrier, rows * kRow, load.site);
}

// Nobody may write these bytes before the wait, so it makes no difference when they are read: now.
void Transfers::store(const TensorMap& map, const Coordinates& corner, const void* from, Site site) {
  constexpr std::size_t kWord = 4;
  const TensorView& view = view_of(map, "a TMA store", site);
  const std::size_t rows = box_rows(view);
  block_.shared().check(from, rows * kRow, kPattern, "a TMA store", site);
  const auto* source = static_cast<const unsigned char*>(from);
  const std::size_t start = static_cast<std::size_t>(block_.shared().offset(from));
  Reads reads;
  for (std::size_t row = 0; row < rows; row++) {
    const BoxRow inside = box_row(view, corner, row);
    const std::size_t first = inside.first * kElement, last = inside.last * kElement;
    for (std::size_t chunk = first / kChunk * kChunk; chunk < last; chunk += kChunk) {
      const std::size_t begin = std::max(first, chunk), end = std::min(last, chunk + kChunk);
      const std::size_t at = start + swizzle(row * kRow + chunk);
      const std::size_t word = (at + begin - chunk) / kWord, past = (at + end - chunk + kWord - 1) / kWord;
      reads.push_back({static_cast<std::uint32_t>(word), static_cast<std::uint32_t>(past - word)});
    }
  }
  block_.shared().begin_reads(reads, {block_.stamp()}, "a TMA store", site);
  for (std::size_t row = 0; row < rows; row++) {
    const BoxRow inside = box_row(view, corner, row);
    if (inside.bytes() == 0) continue;
    unsigned char bytes[kRow];
    for (std::size_t at = 0; at < kRow; at += kChunk)
      std::memcpy(bytes + at, source + swizzle(row * kRow + at), kChunk);
    block_.global().write_row(inside.data, inside.bytes(), block_.thread_of_launch(), "a TMA store", site);
    std::memcpy(inside.data, bytes + inside.first * kElement, inside.bytes());
  }
  stores_[block_.thread()].open.push_back(std::move(reads));
  count(view);
}

void Transfers::commit() {
  Stores& stores = stores_[block_.thread()];
  stores.groups.push_back(std::move(stores.open));
  stores.open.clear();
}

void Transfers::wait_read(int pending) {
  auto& groups = stores_[block_.thread()].groups;
  while (static_cast<int>(groups.size()) > pending) {
    for (const Reads& reads : groups.front()) block_.shared().end_reads(reads, block_.stamp());
    groups.erase(groups.begin());
  }
}

std::size_t Transfers::unread(int thread) const {
  const auto found = stores_.find(thread);
  if (found == stores_.end()) return 0;
  std::size_t count = found->second.open.size();
  for (const auto& group : found->second.groups) count += group.size();
  return count;
}

}  // namespace simt::emulator

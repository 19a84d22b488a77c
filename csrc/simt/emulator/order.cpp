#include "order.h"

#include <algorithm>

namespace simt::emulator {

namespace {

void raise(std::vector<std::uint32_t>& mine, const std::vector<std::uint32_t>& other) {
  if (mine.size() < other.size()) mine.resize(other.size());
  for (std::size_t i = 0; i < other.size(); i++) mine[i] = std::max(mine[i], other[i]);
}

void lower(std::vector<std::uint32_t>& mine, const std::vector<std::uint32_t>& other) {
  mine.resize(std::min(mine.size(), other.size()));
  for (std::size_t i = 0; i < mine.size(); i++) mine[i] = std::min(mine[i], other[i]);
}

std::uint32_t at(const std::vector<std::uint32_t>& clocks, std::size_t i) {
  return i < clocks.size() ? clocks[i] : 0;
}

}  // namespace

void Knowledge::hear(const Knowledge& other) {
  raise(all, other.all);
  raise(own, other.own);
}

void Knowledge::hear(std::size_t what, std::uint32_t clock) {
  if (all.size() <= what) all.resize(what + 1);
  all[what] = std::max(all[what], clock);
}

Clocks::Clocks(int warps)
    : warps_(warps),
      now_(warps * kWarp, 1),
      products_(groups(), 0),
      fences_(warps * kWarp),
      heard_(warps),
      alone_(warps * kWarp),
      uneven_(warps, false),
      news_(warps, false),
      fresh_(warps, false) {
  for (Knowledge& heard : heard_) heard.all.assign(2 * warps, 0);
}

// Brings the clocks of a warp's lanes to the latest of them, which is always allowed.
std::uint32_t Clocks::level(int warp) {
  const auto first = now_.begin() + warp * kWarp;
  if (uneven_[warp]) {
    std::fill(first, first + kWarp, *std::max_element(first, first + kWarp));
    uneven_[warp] = false;
  }
  return *first;
}

void Clocks::tick(int warp, std::uint32_t last) { std::fill_n(now_.begin() + warp * kWarp, kWarp, last + 1); }

// What the warp knows, and what any of its lanes does.
void Clocks::gather(int warp, Knowledge& to) const {
  to.hear(heard_[warp]);
  if (!news_[warp]) return;
  for (int t = warp * kWarp; t < (warp + 1) * kWarp; t++) to.hear(alone_[t]);
}

void Clocks::forget_alone(int warp) {
  if (!news_[warp]) return;
  for (int t = warp * kWarp; t < (warp + 1) * kWarp; t++) alone_[t] = Knowledge{};
  news_[warp] = fresh_[warp] = false;
}

Stamp Clocks::warp_stamp(int warp) {
  if (fresh_[warp]) {
    Knowledge common = alone_[warp * kWarp];
    for (int t = warp * kWarp + 1; t < (warp + 1) * kWarp; t++) {
      lower(common.all, alone_[t].all);
      lower(common.own, alone_[t].own);
    }
    heard_[warp].hear(common);
    fresh_[warp] = false;
  }
  return {static_cast<std::int16_t>(warp), kWarp, level(warp)};
}

void Clocks::sync_warp(int warp) {
  const std::uint32_t last = level(warp);
  Knowledge together;
  gather(warp, together);
  heard_[warp] = std::move(together);
  heard_[warp].hear(warp, last);
  forget_alone(warp);
  tick(warp, last);
}

void Clocks::sync_block() {
  Knowledge everything;
  for (int warp = 0; warp < warps_; warp++) gather(warp, everything);
  for (int warp = 0; warp < warps_; warp++) {
    const std::uint32_t last = level(warp);
    everything.all[warp] = last;
    forget_alone(warp);
    tick(warp, last);
  }
  everything.own.clear();
  for (Knowledge& heard : heard_) heard = everything;
}

void Clocks::release(int thread, Knowledge& to) {
  const int warp = thread / kWarp;
  to.hear(heard_[warp]);
  to.hear(alone_[thread]);
  if (to.own.empty()) to.own.resize(now_.size());
  to.own[thread] = now_[thread]++;
  uneven_[warp] = true;
}

void Clocks::acquire(int thread, const Knowledge& from) {
  alone_[thread].hear(from);
  news_[thread / kWarp] = fresh_[thread / kWarp] = true;
}

void Clocks::release_warp(int warp, Knowledge& to) {
  const std::uint32_t last = level(warp);
  gather(warp, to);
  to.hear(warp, last);
  tick(warp, last);
}

Stamp Clocks::finish_products(int group) {
  const std::uint32_t clock = ++products_[group];
  const int warps = kWarpgroup / kWarp;
  for (int warp = group * warps; warp < (group + 1) * warps; warp++) heard_[warp].hear(warps_ + warp, clock);
  return {static_cast<std::int16_t>(warps_ + group), 0, clock};
}

Stamp Clocks::mark(int thread) {
  now_[thread]++;
  uneven_[thread / kWarp] = true;
  return stamp(thread);
}

Stamp Clocks::fence_proxy(int thread) {
  const Stamp fence = mark(thread);
  fences_[thread].push_back(fence.clock);
  return fence;
}

bool Clocks::fenced(const Stamp& written, const Stamp& reader) const {
  if (written.actor >= warps_) return true;
  const bool by_warp = written.lane == kWarp;
  for (int lane = by_warp ? 0 : written.lane; lane <= (by_warp ? kWarp - 1 : written.lane); lane++) {
    const auto& fences = fences_[written.actor * kWarp + lane];
    const auto first = std::upper_bound(fences.begin(), fences.end(), written.clock);
    if (first == fences.end()) return false;
    if (!ordered({written.actor, static_cast<std::int16_t>(lane), *first}, reader)) return false;
  }
  return true;
}

bool Clocks::ordered_by_more(const Stamp& earlier, const Stamp& later) const {
  const Knowledge& heard = heard_[later.actor];
  const Knowledge* alone = later.lane == kWarp ? nullptr : &alone_[later.actor * kWarp + later.lane];
  const auto knows = [&](std::size_t what) {
    return at(heard.all, what) >= earlier.clock || (alone && at(alone->all, what) >= earlier.clock);
  };
  const auto knows_own = [&](int thread) {
    return at(heard.own, thread) >= earlier.clock || (alone && at(alone->own, thread) >= earlier.clock);
  };
  if (earlier.actor >= warps_ + groups()) return knows(2 * warps_ + earlier.actor - warps_ - groups());
  if (earlier.actor >= warps_) {
    constexpr int kWarps = kWarpgroup / kWarp;
    const int first = (earlier.actor - warps_) * kWarps;
    for (int warp = first; warp < first + kWarps; warp++)
      if (!knows(warps_ + warp)) return false;
    return true;
  }
  if (knows(earlier.actor)) return true;
  const int first = earlier.actor * kWarp;
  if (earlier.lane != kWarp) return knows_own(first + earlier.lane);
  for (int lane = 0; lane < kWarp; lane++)
    if (!knows_own(first + lane)) return false;
  return true;
}

}  // namespace simt::emulator

#include "block.h"

#include <map>
#include <string>
#include <utility>

namespace simt::emulator {

namespace {

thread_local Block* running_block = nullptr;

}  // namespace

Block::Block(int blocks, int threads, std::size_t shared_bytes, std::uint64_t seed, GlobalMemory& global,
             Counters& counters)
    : clocks_(threads / kWarp),
      shared_(shared_bytes, clocks_),
      global_(global),
      counters_(counters),
      stacks_(threads),
      random_(seed * 0x9e3779b97f4a7c15u + 1),
      blocks_(blocks),
      fibers_(threads),
      warp_meetings_(threads / kWarp),
      group_meetings_(threads / kWarpgroup),
      lanes_(threads) {}

Block& Block::running() { return *running_block; }

void Block::run(int index, const std::function<void()>& body) {
  index_ = index;
  body_ = &body;
  done_ = 0;
  fault_ = nullptr;
  clocks_ = Clocks(clocks_.warps());
  shared_.reset();
  mbarriers_.reset();
  transfers_.reset();
  named_.reset();
  registers_.reset();
  products_.reset();
  block_meeting_ = Meeting{};
  ready_.clear();
  for (Meeting& meeting : warp_meetings_) meeting = Meeting{};
  for (Meeting& meeting : group_meetings_) meeting = Meeting{};
  for (int i = 0; i < threads(); i++) {
    fibers_[i] = Fiber{};
    prepare(fibers_[i].context, stacks_.top(i), &Block::enter);
    ready_.push_back(i);
  }
  counters_.blocks++;
  running_block = this;
  switch_context(scheduler_, next());
  running_block = nullptr;
  if (fault_) std::rethrow_exception(fault_);
  if (done_ < threads()) throw Fault(deadlock());
  if (const std::string copies = mbarriers_.unheard(); !copies.empty())
    throw Fault("unfinished copies: " + copies + " [block " + std::to_string(index_) + "]");
}

// A fiber's whole life. It leaves by a switch: there is nothing to return to.
void Block::enter() {
  Block& block = *running_block;
  Context* after = &block.scheduler_;
  try {
    (*block.body_)();
    block.leave();
    after = &block.next();
  } catch (...) {
    block.fault_ = std::current_exception();
  }
  Context dead;
  switch_context(dead, *after);
}

void Block::leave() {
  Fiber& fiber = fibers_[current_];
  std::size_t copies = fiber.open.size();
  for (const auto& group : fiber.groups) copies += group.size();
  if (copies > 0)
    fail("unfinished copies: the thread returns with " + std::to_string(copies) + " cp.async not waited for",
         Site{});
  if (const std::size_t stores = transfers_.unread(current_))
    fail("unfinished copies: the thread returns with " + std::to_string(stores) +
             " TMA stores that may not have read shared memory",
         Site{});
  if (const int products = products_.unfinished(current_))
    fail("unfinished products: the thread returns with " + std::to_string(products) +
             " accumulators of wgmma not waited for",
         Site{});
  const std::size_t group = current_ / kWarpgroup;
  Meeting* of_group = group < group_meetings_.size() ? &group_meetings_[group] : nullptr;
  for (Meeting* meeting : {&warp_meetings_[current_ / kWarp], of_group, &block_meeting_}) {
    if (meeting == nullptr) continue;
    meeting->gone++;
    if (meeting->arrived > 0)
      fail(std::string("early exit: the thread returns while others wait for it at ") + meeting->what + " (" +
               meeting->where.text() + ")",
           Site{});
  }
  fiber.done = true;
  done_++;
}

// Any ready fiber or copy, or the scheduler when there is none: xorshift64 (Marsaglia 2003).
Context& Block::next() {
  while (const std::size_t actors = ready_.size() + transfers_.in_flight()) {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    const std::size_t pick = random_ % actors;
    if (pick < ready_.size()) {
      current_ = std::exchange(ready_[pick], ready_.back());
      ready_.pop_back();
      return fibers_[current_].context;
    }
    current_ = transfers_.sender(pick - ready_.size());
    transfers_.land(pick - ready_.size());
  }
  return scheduler_;
}

void Block::suspend(const char* what, Site site) {
  Fiber& fiber = fibers_[current_];
  fiber.waits_for = what;
  fiber.where = site;
  Context& other = next();
  if (&other != &fiber.context) switch_context(fiber.context, other);
  fiber.waits_for = nullptr;
}

// Whether the caller is the last of the `of` threads that meet here; otherwise it has waited for the last to
// `release`.
bool Block::arrive(Meeting& meeting, int of, const char* what, Site site) {
  if (meeting.gone > 0)
    fail(std::string("early exit: ") + what + " needs every thread, and " + std::to_string(meeting.gone) +
             " returned before it",
         site);
  if (meeting.arrived > 0 && (meeting.what != what || !(meeting.where == site)))
    fail(std::string("divergence: at ") + what + " while others wait at " + meeting.what + " (" +
             meeting.where.text() + ")",
         site);
  meeting.what = what;
  meeting.where = site;
  if (++meeting.arrived == of) return true;
  suspend(what, site);
  return false;
}

void Block::release(Meeting& meeting, int first, int count) {
  meeting.arrived = 0;
  for (int i = first; i < first + count; i++)
    if (i != current_) ready_.push_back(i);
}

Block::Meeting& Block::meeting(int threads, int which) {
  return threads == kWarp ? warp_meetings_[which] : group_meetings_[which];
}

void** Block::meet(int threads, const char* what, void* argument, Site site) {
  const int which = current_ / threads;
  if ((which + 1) * threads > this->threads())
    fail(std::string("divergence: ") + what + " by a thread of no whole warpgroup", site);
  lanes_[current_] = argument;
  return arrive(meeting(threads, which), threads, what, site) ? &lanes_[which * threads] : nullptr;
}

void Block::part(int threads, int which) { release(meeting(threads, which), which * threads, threads); }

void Block::wake(int first, int count) {
  for (int i = first; i < first + count; i++) ready_.push_back(i);
}

void Block::sync_warp(Site site) {
  char nothing = 0;
  collective("__syncwarp", nothing, site, [this](char**) { clocks_.sync_warp(current_ / kWarp); });
}

void Block::sync_block(Site site) {
  if (named_.open(0))
    fail("named barrier: __syncthreads while others are at barrier 0, which is the same", site);
  if (!arrive(block_meeting_, threads(), "__syncthreads", site)) return;
  clocks_.sync_block();
  counters_.barriers++;
  release(block_meeting_, 0, threads());
}

void Block::copy(void* to, const void* from, int bytes, int filled, Site site) {
  if (filled > 0) global_.read(from, bytes, "cp.async", site);
  shared_.begin_copy(to, bytes, stamp(), "cp.async", site);
  fibers_[current_].open.push_back({to, from, bytes, filled});
  counters_.copies++;
}

void Block::commit_copies() {
  Fiber& fiber = fibers_[current_];
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}

void Block::wait_copies(int pending) {
  auto& groups = fibers_[current_].groups;
  while (static_cast<int>(groups.size()) > pending) {
    for (const Copy& copy : groups.front())
      shared_.land(copy.to, copy.from, copy.bytes, copy.filled, stamp());
    groups.erase(groups.begin());
  }
}

std::string Block::deadlock() const {
  std::map<std::string, int> places;
  for (const Fiber& fiber : fibers_)
    if (!fiber.done) places[std::string(fiber.waits_for) + " (" + fiber.where.text() + ")"]++;
  std::string text = "deadlock:";
  for (const auto& [place, count] : places)
    text += " " + std::to_string(count) + " threads wait at " + place + ",";
  text += mbarriers_.missing() + named_.missing() + registers_.missing();
  return text + " " + std::to_string(done_) + " have returned [block " + std::to_string(index_) + "]";
}

}  // namespace simt::emulator

#include "block.h"

#include <map>
#include <string>
#include <utility>

namespace simt::emulator {

namespace {

thread_local Block* running_block = nullptr;

}  // namespace

std::string Site::text() const {
  if (file == nullptr) return "where it returns";
  const std::string path = file;
  return path.substr(path.find_last_of('/') + 1) + ":" + std::to_string(line);
}

void fail(const std::string& what, Site site) {
  const Block& block = Block::running();
  throw Fault(what + " [block " + std::to_string(block.index()) + ", thread " +
              std::to_string(block.thread()) + ", " + site.text() + "]");
}

Block::Block(int threads, std::size_t shared_bytes, std::uint64_t seed, GlobalMemory& global,
             Counters& counters)
    : clocks_(threads / kWarp),
      shared_(shared_bytes, clocks_),
      global_(global),
      counters_(counters),
      stacks_(threads),
      random_(seed * 0x9e3779b97f4a7c15u + 1),
      fibers_(threads),
      warp_meetings_(threads / kWarp),
      lanes_(threads) {}

Block& Block::running() { return *running_block; }

void Block::run(int index, const std::function<void()>& body) {
  index_ = index;
  body_ = &body;
  done_ = 0;
  fault_ = nullptr;
  clocks_ = Clocks(clocks_.warps());
  shared_.reset();
  block_meeting_ = Meeting{};
  ready_.clear();
  for (Meeting& meeting : warp_meetings_) meeting = Meeting{};
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
}

// A fiber's whole life. It leaves by a switch: there is nothing to return to.
void Block::enter() {
  Block& block = *running_block;
  try {
    (*block.body_)();
    block.leave();
  } catch (...) {
    block.fault_ = std::current_exception();
  }
  Context dead;
  switch_context(dead, block.fault_ ? block.scheduler_ : block.next());
}

void Block::leave() {
  Fiber& fiber = fibers_[current_];
  std::size_t copies = fiber.open.size();
  for (const auto& group : fiber.groups) copies += group.size();
  if (copies > 0)
    fail("unfinished copies: the thread returns with " + std::to_string(copies) + " cp.async not waited for",
         Site{});
  for (Meeting* meeting : {&warp_meetings_[current_ / kWarp], &block_meeting_}) {
    meeting->gone++;
    if (meeting->arrived > 0)
      fail(std::string("early exit: the thread returns while others wait for it at ") + meeting->what + " (" +
               meeting->where.text() + ")",
           Site{});
  }
  fiber.done = true;
  done_++;
}

// Any ready fiber, or the scheduler when none is: xorshift64 (Marsaglia 2003).
Context& Block::next() {
  if (ready_.empty()) return scheduler_;
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  const std::size_t pick = random_ % ready_.size();
  current_ = std::exchange(ready_[pick], ready_.back());
  ready_.pop_back();
  return fibers_[current_].context;
}

void Block::suspend(const char* what, Site site) {
  Fiber& fiber = fibers_[current_];
  fiber.waits_for = what;
  fiber.where = site;
  switch_context(fiber.context, next());
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

void** Block::meet(const char* what, void* argument, Site site) {
  const int warp = current_ / kWarp;
  lanes_[current_] = argument;
  return arrive(warp_meetings_[warp], kWarp, what, site) ? &lanes_[warp * kWarp] : nullptr;
}

void Block::part() {
  const int warp = current_ / kWarp;
  release(warp_meetings_[warp], warp * kWarp, kWarp);
}

void Block::sync_warp(Site site) {
  char nothing = 0;
  collective("__syncwarp", nothing, site, [this](char**) { clocks_.sync_warp(current_ / kWarp); });
}

void Block::sync_block(Site site) {
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
  return text + " " + std::to_string(done_) + " have returned [block " + std::to_string(index_) + "]";
}

}  // namespace simt::emulator

#include "mbarrier.h"

#include "block.h"

namespace simt::emulator {

namespace {

constexpr int kMaxArrivals = (1 << 20) - 1;
constexpr long kMaxBytes = (1 << 20) - 1;

std::string place(std::size_t offset) { return "the mbarrier at byte " + std::to_string(offset); }

}  // namespace

void Mbarriers::init(void* at, int arrivals, Site site) {
  if (arrivals < 1 || arrivals > kMaxArrivals)
    fail("mbarrier: mbarrier.init with " + std::to_string(arrivals) + " arrivals; 1 to 2^20 - 1 are allowed",
         site);
  const Stamp made = block_.stamp();
  block_.shared().make_mbarrier(at, made, site);
  One one{};
  one.offset = static_cast<std::size_t>(block_.shared().offset(at));
  one.made = made;
  one.count = one.left = arrivals;
  all_.push_back(one);
}

void Mbarriers::show(const Stamp& fence) {
  for (One& one : all_)
    if (one.made.actor == fence.actor && one.made.lane == fence.lane && one.shown.actor < 0)
      one.shown = fence;
}

int Mbarriers::find(void* at, const char* what, Site site) const {
  const std::ptrdiff_t offset = block_.shared().offset(at);
  for (std::size_t i = 0; i < all_.size(); i++) {
    if (static_cast<std::ptrdiff_t>(all_[i].offset) != offset) continue;
    if (!block_.clocks().ordered(all_[i].made, block_.stamp()))
      fail(std::string("race: ") + what + " on " + place(all_[i].offset) +
               ", initialised by another thread with no barrier between",
           site);
    return static_cast<int>(i);
  }
  fail(std::string("mbarrier: ") + what + " at byte " + std::to_string(offset) +
           " of shared memory, where none was initialised",
       site);
}

int Mbarriers::find_for_copy(void* at, Site site) {
  const int found = find(at, "a TMA load", site);
  const Stamp& shown = all_[found].shown;
  if (shown.actor < 0 || !block_.clocks().ordered(shown, block_.stamp()))
    fail("mbarrier: a TMA load on " + place(all_[found].offset) + ", with no fence.mbarrier_init between",
         site);
  return found;
}

void Mbarriers::arrive(void* at, int expected_bytes, Site site) {
  const int i = find(at, "mbarrier.arrive", site);
  One& one = all_[i];
  if (one.left == 0)
    fail("mbarrier: one arrival more at " + place(one.offset) + " than the " + std::to_string(one.count) +
             " of its phase",
         site);
  one.bytes += expected_bytes;
  if (expected_bytes < 0 || one.bytes > kMaxBytes)
    fail("mbarrier: " + std::to_string(one.bytes) + " bytes expected at " + place(one.offset) +
             "; at most 2^20 - 1 are allowed",
         site);
  block_.clocks().release(block_.thread(), one.told);
  one.left--;
  complete(i, site);
}

void Mbarriers::land(int mbarrier, std::size_t bytes, Site site) {
  One& one = all_[mbarrier];
  one.bytes -= static_cast<long>(bytes);
  one.landed += bytes;
  if (one.bytes < -kMaxBytes)
    fail("mbarrier: more bytes landed at " + place(one.offset) + " than it can count", site);
  complete(mbarrier, site);
}

void Mbarriers::complete(int mbarrier, Site site) {
  One& one = all_[mbarrier];
  if (one.left > 0) return;
  if (one.bytes < 0)
    fail("mbarrier: " + std::to_string(-one.bytes) + " bytes more landed at " + place(one.offset) +
             " than its phase expected",
         site);
  if (one.bytes > 0) return;
  one.phase++;
  one.left = one.count;
  one.unheard += one.landed;
  one.landed = 0;
  block_.clocks().end_phase(mbarrier, one.phase, one.told);
  one.ended = std::move(one.told);
  one.told = Knowledge{};
  for (const int thread : one.waiting) block_.wake(thread, 1);
  one.waiting.clear();
}

// The phase of parity p has ended when the present one has the other parity.
void Mbarriers::wait(void* at, int parity, Site site) {
  const int i = find(at, "mbarrier.try_wait", site);
  if (parity != 0 && parity != 1)
    fail("mbarrier: mbarrier.try_wait for parity " + std::to_string(parity) + "; 0 and 1 are allowed", site);
  while (static_cast<int>(all_[i].phase & 1u) == parity) {
    all_[i].waiting.push_back(block_.thread());
    block_.suspend("mbarrier.try_wait", site);
  }
  block_.clocks().acquire(block_.thread(), all_[i].ended);
  all_[i].unheard = 0;
}

Stamp Mbarriers::copy_stamp(int mbarrier) const {
  return block_.clocks().copy_stamp(mbarrier, all_[mbarrier].phase + 1);
}

std::string Mbarriers::missing() const {
  std::string text;
  for (const One& one : all_)
    if (!one.waiting.empty())
      text += " " + place(one.offset) + " lacks " + std::to_string(one.left) + " arrivals and " +
              std::to_string(one.bytes) + " bytes,";
  return text;
}

std::string Mbarriers::unheard() const {
  for (const One& one : all_)
    if (one.landed + one.unheard > 0)
      return std::to_string(one.landed + one.unheard) + " bytes for " + place(one.offset) +
             " that no thread waited for";
  return "";
}

}  // namespace simt::emulator

#include "shared.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace simt::emulator {

namespace {

constexpr std::size_t kWord = 4;
constexpr std::size_t kAlignment = 1024;  // what a block without static shared memory gets
constexpr unsigned char kPoison = 0xff;   // NaN in every float format

std::string place(std::size_t word) { return " byte " + std::to_string(word * kWord) + " of shared memory"; }

[[noreturn]] void collision(const std::string& what, const char* does, std::size_t word,
                            const std::string& with, Site site) {
  fail("race: " + what + does + place(word) + with, site);
}

}  // namespace

SharedMemory::SharedMemory(std::size_t bytes, Clocks& clocks)
    : bytes_(bytes),
      clocks_(clocks),
      columns_(clocks.warps() + clocks.groups()),
      words_((bytes + kWord - 1) / kWord),
      readers_(words_.size() * columns_) {
  const std::size_t rounded = std::max<std::size_t>(1, (bytes + kAlignment - 1) / kAlignment) * kAlignment;
  base_ = static_cast<unsigned char*>(std::aligned_alloc(kAlignment, rounded));
  if (base_ == nullptr) throw std::bad_alloc();
}

SharedMemory::~SharedMemory() { std::free(base_); }

void SharedMemory::reset() {
  std::memset(base_, kPoison, bytes_);
  std::fill(words_.begin(), words_.end(), Word{});
}

std::string SharedMemory::who(const Stamp& stamp) const {
  if (stamp.actor >= clocks_.warps() + clocks_.groups()) return "TMA";
  if (stamp.actor >= clocks_.warps())
    return "wgmma of warpgroup " + std::to_string(stamp.actor - clocks_.warps());
  const std::string warp = "warp " + std::to_string(stamp.actor);
  return stamp.lane == kWarp ? warp
                             : "thread " + std::to_string(stamp.actor * kWarp + stamp.lane) + " of " + warp;
}

// Why what was written last is not there for whoever asks.
std::string SharedMemory::why_not(const Word& word) const {
  if (word.state == State::kInFlight) return " while a cp.async of " + who(word.writer) + " is in flight";
  if (word.state == State::kBoxInFlight) return " while a TMA load of " + who(word.writer) + " is in flight";
  if (word.writer.actor >= clocks_.warps())
    return ", written by " + who(word.writer) + " with no wait at its mbarrier between";
  return ", written by " + who(word.writer) + " with no barrier between";
}

void SharedMemory::check(const void* address, std::size_t bytes, std::size_t alignment, const char* what,
                         Site site) const {
  const std::ptrdiff_t at = offset(address);
  if (at < 0 || static_cast<std::size_t>(at) + bytes > bytes_)
    fail(std::string("out of bounds: ") + what + " at byte " + std::to_string(at) + " of " +
             std::to_string(bytes_) + " bytes of shared memory",
         site);
  if (static_cast<std::size_t>(at) % alignment != 0)
    fail(std::string("misaligned: ") + what + " of " + std::to_string(bytes) + " bytes at byte " +
             std::to_string(at) + " of shared memory",
         site);
}

std::size_t SharedMemory::first_word(const void* address, std::size_t bytes, const char* what,
                                     Site site) const {
  check(address, bytes, bytes, what, site);
  return static_cast<std::size_t>(offset(address)) / kWord;
}

void SharedMemory::refuse_read(std::size_t i, const char* what, Site site) const {
  const Word& word = words_[i];
  if (word.state == State::kMbarrier)
    fail(std::string("mbarrier: ") + what + " reads" + place(i) + ", which is one", site);
  if (word.state == State::kUnwritten)
    fail(std::string("uninitialised: ") + what + " reads" + place(i) + ", which nobody wrote", site);
  collision(what, " reads", i, why_not(word), site);
}

void SharedMemory::read(const void* address, std::size_t bytes, const Stamp& reader, const char* what,
                        Site site) {
  const std::size_t first = first_word(address, bytes, what, site);
  for (std::size_t i = first; i < first + (bytes + kWord - 1) / kWord; i++) {
    const Word& word = words_[i];
    if (word.state != State::kWritten || !clocks_.ordered(word.writer, reader)) refuse_read(i, what, site);
    record_read(i, reader);
  }
}

// The last read of each actor is enough, but of lanes that nothing has ordered: these become a whole warp's.
void SharedMemory::record_read(std::size_t i, const Stamp& reader) {
  const std::uint64_t bit = std::uint64_t{1} << reader.actor;
  Stamp& last = readers_[i * columns_ + reader.actor];
  const bool many = (words_[i].readers & bit) && reader.actor < clocks_.warps() && last.lane != reader.lane &&
                    last.clock > clocks_.settled(reader.actor);
  last = many ? Stamp{reader.actor, kWarp, std::max(last.clock, reader.clock)} : reader;
  words_[i].readers |= bit;
}

void SharedMemory::check_overwrite(std::size_t i, const Stamp& writer, const char* what, Site site) const {
  const Word& word = words_[i];
  if (word.state == State::kMbarrier)
    fail(std::string("mbarrier: ") + what + " writes" + place(i) + ", which is one", site);
  if (word.state == State::kInFlight || word.state == State::kBoxInFlight ||
      (word.state == State::kWritten && !clocks_.ordered(word.writer, writer)))
    collision(what, " writes", i, why_not(word), site);
  if (word.reads > 0) collision(what, " writes", i, " while wgmma or a TMA store reads it", site);
  for (std::uint64_t rest = word.readers; rest != 0; rest &= rest - 1) {
    const Stamp& reader = readers_[i * columns_ + __builtin_ctzll(rest)];
    if (!clocks_.ordered(reader, writer))
      collision(what, " writes", i, ", read by " + who(reader) + " with no barrier between", site);
  }
}

void SharedMemory::check_fenced(std::size_t i, const Stamp& user, const char* what, const char* does,
                                Site site) const {
  const Stamp& writer = words_[i].writer;
  if (!clocks_.fenced(writer, user))
    collision(what, does, i, ", written by " + who(writer) + " with no fence.proxy.async between", site);
}

void SharedMemory::set(std::size_t first, std::size_t bytes, State state, const Stamp& writer) {
  for (std::size_t i = first; i < first + (bytes + kWord - 1) / kWord; i++) words_[i] = {state, 0, 0, writer};
}

void SharedMemory::write(void* address, std::size_t bytes, const Stamp& writer, const char* what, Site site) {
  const std::size_t first = first_word(address, bytes, what, site);
  for (std::size_t i = first; i < first + (bytes + kWord - 1) / kWord; i++)
    check_overwrite(i, writer, what, site);
  set(first, bytes, State::kWritten, writer);
}

void SharedMemory::begin_copy(void* address, std::size_t bytes, const Stamp& writer, const char* what,
                              Site site) {
  const std::size_t first = first_word(address, bytes, what, site);
  for (std::size_t i = first; i < first + (bytes + kWord - 1) / kWord; i++)
    check_overwrite(i, writer, what, site);
  set(first, bytes, State::kInFlight, writer);
}

void SharedMemory::land(void* address, const void* source, std::size_t bytes, std::size_t filled,
                        const Stamp& writer) {
  if (filled > 0) std::memcpy(address, source, filled);
  std::memset(static_cast<unsigned char*>(address) + filled, 0, bytes - filled);
  set(offset(address) / kWord, bytes, State::kWritten, writer);
}

void SharedMemory::begin_box(void* address, std::size_t bytes, const Stamp& sender, Site site) {
  check(address, bytes, kAlignment, "a TMA load", site);
  const std::size_t first = offset(address) / kWord;
  for (std::size_t i = first; i < first + bytes / kWord; i++) {
    check_overwrite(i, sender, "a TMA load", site);
    if (words_[i].state == State::kWritten) check_fenced(i, sender, "a TMA load", " writes", site);
  }
  set(first, bytes, State::kBoxInFlight, sender);
}

void SharedMemory::land_box(void* address, std::size_t bytes, const Stamp& writer) {
  set(offset(address) / kWord, bytes, State::kWritten, writer);
}

void SharedMemory::begin_reads(const std::vector<Words>& words, const std::vector<Stamp>& readers,
                               const char* what, Site site) {
  Stamp good;  // the last writer that was found to be: neighbours mostly have the same
  for (const Words& run : words)
    for (std::size_t i = run.first; i < run.first + run.count; i++) {
      Word& word = words_[i];
      if (word.state != State::kWritten) refuse_read(i, what, site);
      if (!(word.writer == good)) {
        for (const Stamp& reader : readers) {
          if (!clocks_.ordered(word.writer, reader)) refuse_read(i, what, site);
          check_fenced(i, reader, what, " reads", site);
        }
        good = word.writer;
      }
      word.reads++;
    }
}

void SharedMemory::end_reads(const std::vector<Words>& words, const Stamp& reader) {
  for (const Words& run : words)
    for (std::size_t i = run.first; i < run.first + run.count; i++) {
      words_[i].reads--;
      record_read(i, reader);
    }
}

void SharedMemory::make_mbarrier(void* address, const Stamp& maker, Site site) {
  const std::size_t first = first_word(address, 8, "mbarrier.init", site);
  for (std::size_t i = first; i < first + 2; i++) check_overwrite(i, maker, "mbarrier.init", site);
  set(first, 8, State::kMbarrier, maker);
}

}  // namespace simt::emulator

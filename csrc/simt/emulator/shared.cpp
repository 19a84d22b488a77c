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

std::string who(const Stamp& stamp) {
  const std::string warp = "warp " + std::to_string(stamp.warp);
  return stamp.lane == kWarp ? warp
                             : "thread " + std::to_string(stamp.warp * kWarp + stamp.lane) + " of " + warp;
}

std::string place(std::size_t word) { return " byte " + std::to_string(word * kWord) + " of shared memory"; }

std::string in_flight(const Stamp& writer) { return " while a cp.async of " + who(writer) + " is in flight"; }

std::string written(const Stamp& writer) {
  return ", written by " + who(writer) + " with no barrier between";
}

[[noreturn]] void collision(const std::string& what, const char* does, std::size_t word,
                            const std::string& with, Site site) {
  fail("race: " + what + does + place(word) + with, site);
}

}  // namespace

SharedMemory::SharedMemory(std::size_t bytes, Clocks& clocks)
    : bytes_(bytes),
      clocks_(clocks),
      words_((bytes + kWord - 1) / kWord),
      readers_(words_.size() * clocks.warps()) {
  const std::size_t rounded = std::max<std::size_t>(1, (bytes + kAlignment - 1) / kAlignment) * kAlignment;
  base_ = static_cast<unsigned char*>(std::aligned_alloc(kAlignment, rounded));
  if (base_ == nullptr) throw std::bad_alloc();
}

SharedMemory::~SharedMemory() { std::free(base_); }

void SharedMemory::reset() {
  std::memset(base_, kPoison, bytes_);
  std::fill(words_.begin(), words_.end(), Word{});
  std::fill(readers_.begin(), readers_.end(), Stamp{});
}

std::size_t SharedMemory::first_word(const void* address, std::size_t bytes, const char* what,
                                     Site site) const {
  const auto* at = static_cast<const unsigned char*>(address);
  const std::ptrdiff_t offset = at - base_;
  if (offset < 0 || static_cast<std::size_t>(offset) + bytes > bytes_)
    fail(std::string("out of bounds: ") + what + " at byte " + std::to_string(offset) + " of " +
             std::to_string(bytes_) + " bytes of shared memory",
         site);
  if (reinterpret_cast<std::uintptr_t>(address) % bytes != 0)
    fail(std::string("misaligned: ") + what + " of " + std::to_string(bytes) + " bytes at byte " +
             std::to_string(offset) + " of shared memory",
         site);
  return static_cast<std::size_t>(offset) / kWord;
}

void SharedMemory::read(const void* address, std::size_t bytes, const Stamp& reader, const char* what,
                        Site site) {
  const std::size_t first = first_word(address, bytes, what, site);
  for (std::size_t i = first; i < first + (bytes + kWord - 1) / kWord; i++) {
    const Word& word = words_[i];
    if (word.state == State::kWritten && clocks_.ordered(word.writer, reader)) {
      Stamp& last = readers_[i * clocks_.warps() + reader.warp];
      const bool many = last.warp >= 0 && last.clock == reader.clock && last.lane != reader.lane;
      last = reader;
      if (many) last.lane = kWarp;
      continue;
    }
    if (word.state == State::kUnwritten)
      fail(std::string("uninitialised: ") + what + " reads" + place(i) + ", which nobody wrote", site);
    collision(what, " reads", i,
              word.state == State::kInFlight ? in_flight(word.writer) : written(word.writer), site);
  }
}

void SharedMemory::check_overwrite(std::size_t i, const Stamp& writer, const char* what, Site site) const {
  const Word& word = words_[i];
  if (word.state == State::kInFlight) collision(what, " writes", i, in_flight(word.writer), site);
  if (word.state == State::kWritten && !clocks_.ordered(word.writer, writer))
    collision(what, " writes", i, written(word.writer), site);
  for (int warp = 0; warp < clocks_.warps(); warp++) {
    const Stamp& reader = readers_[i * clocks_.warps() + warp];
    if (reader.warp >= 0 && !clocks_.ordered(reader, writer))
      collision(what, " writes", i, ", read by " + who(reader) + " with no barrier between", site);
  }
}

void SharedMemory::set(std::size_t first, std::size_t bytes, State state, const Stamp& writer) {
  for (std::size_t i = first; i < first + (bytes + kWord - 1) / kWord; i++) {
    words_[i] = {state, writer};
    for (int warp = 0; warp < clocks_.warps(); warp++) readers_[i * clocks_.warps() + warp] = Stamp{};
  }
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
  set((static_cast<unsigned char*>(address) - base_) / kWord, bytes, State::kWritten, writer);
}

}  // namespace simt::emulator

// Shared memory of one block, and beside each word of it who wrote and read it last.
#pragma once

#include <cstddef>
#include <vector>

#include "error.h"
#include "order.h"

namespace simt::emulator {

class SharedMemory {
 public:
  SharedMemory(std::size_t bytes, Clocks& clocks);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // Poisons every byte and forgets every access: what the next block finds.
  void reset();

  unsigned char* base() { return base_; }

  void read(const void* address, std::size_t bytes, const Stamp& reader, const char* what, Site site);
  void write(void* address, std::size_t bytes, const Stamp& writer, const char* what, Site site);

  // A copy that may land at any time from now on, until `land`: nobody may touch the words meanwhile.
  void begin_copy(void* address, std::size_t bytes, const Stamp& writer, const char* what, Site site);
  void land(void* address, const void* source, std::size_t bytes, std::size_t filled, const Stamp& writer);

 private:
  enum class State : unsigned char { kUnwritten, kInFlight, kWritten };

  struct Word {
    State state = State::kUnwritten;
    Stamp writer;
  };

  std::size_t first_word(const void* address, std::size_t bytes, const char* what, Site site) const;
  void check_overwrite(std::size_t word, const Stamp& writer, const char* what, Site site) const;
  void set(std::size_t first, std::size_t bytes, State state, const Stamp& writer);

  std::size_t bytes_;
  unsigned char* base_;
  Clocks& clocks_;
  std::vector<Word> words_;
  std::vector<Stamp> readers_;  // [words, warps] the last reads since the last write
};

}  // namespace simt::emulator

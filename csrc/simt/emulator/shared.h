// Shared memory of one block, and beside each word of it who wrote and read it last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "error.h"
#include "order.h"

namespace simt::emulator {

// Neighbouring words.
struct Words {
  std::uint32_t first, count;
};

class SharedMemory {
 public:
  SharedMemory(std::size_t bytes, Clocks& clocks);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // Poisons every byte and forgets every access: what the next block finds.
  void reset();

  unsigned char* base() { return base_; }
  std::ptrdiff_t offset(const void* address) const {
    return static_cast<const unsigned char*>(address) - base_;
  }

  // Fails unless so many bytes at `address` are in bounds and aligned.
  void check(const void* address, std::size_t bytes, std::size_t alignment, const char* what,
             Site site) const;

  void read(const void* address, std::size_t bytes, const Stamp& reader, const char* what, Site site);
  void write(void* address, std::size_t bytes, const Stamp& writer, const char* what, Site site);

  // A copy that may land at any time from now on, until `land`: nobody may touch the words meanwhile.
  void begin_copy(void* address, std::size_t bytes, const Stamp& writer, const char* what, Site site);
  void land(void* address, const void* source, std::size_t bytes, std::size_t filled, const Stamp& writer);

  // The same of a box by TMA: sent for by `sender`, and written by `writer` when it has landed. What threads
  // wrote there before must be fenced.
  void begin_box(void* address, std::size_t bytes, const Stamp& sender, Site site);
  void land_box(void* address, std::size_t bytes, const Stamp& writer);

  // Reading by TMA or wgmma, which begins now, as all of `readers` know these words, and goes on until the
  // end: nobody may write them meanwhile. What threads wrote must be fenced.
  void begin_reads(const std::vector<Words>& words, const std::vector<Stamp>& readers, const char* what,
                   Site site);
  void end_reads(const std::vector<Words>& words, const Stamp& reader);

  // 8 bytes that are an mbarrier from now on, and no longer data.
  void make_mbarrier(void* address, const Stamp& maker, Site site);

 private:
  enum class State : unsigned char { kUnwritten, kInFlight, kBoxInFlight, kWritten, kMbarrier };

  struct Word {
    State state = State::kUnwritten;
    std::uint16_t reads = 0;    // by TMA or wgmma that have not ended
    std::uint64_t readers = 0;  // bit i: actor i has read it since the last write
    Stamp writer;
  };

  std::string who(const Stamp& stamp) const;
  std::string why_not(const Word& word) const;
  std::size_t first_word(const void* address, std::size_t bytes, const char* what, Site site) const;
  void check_overwrite(std::size_t word, const Stamp& writer, const char* what, Site site) const;
  void check_fenced(std::size_t word, const Stamp& user, const char* what, const char* does, Site site) const;
  void set(std::size_t first, std::size_t bytes, State state, const Stamp& writer);
  void record_read(std::size_t word, const Stamp& reader);
  [[noreturn]] void refuse_read(std::size_t word, const char* what, Site site) const;

  std::size_t bytes_;
  unsigned char* base_;
  Clocks& clocks_;
  std::size_t columns_;
  std::vector<Word> words_;
  std::vector<Stamp> readers_;  // [words, actors that read] the last reads since the last write
};

}  // namespace simt::emulator

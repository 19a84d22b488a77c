// Global memory: the ranges a launch may touch, and which thread wrote what.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "error.h"

namespace simt::emulator {

struct Range {
  std::uintptr_t begin;
  std::size_t bytes;
  bool writable;
};

class GlobalMemory {
 public:
  explicit GlobalMemory(std::vector<Range> ranges);

  void read(const void* address, std::size_t bytes, const char* what, Site site) const;

  // `thread` counts the threads of the whole launch. Blocks are in no order, so a byte has one writer.
  void write(void* address, std::size_t bytes, std::uint32_t thread, const char* what, Site site);

  // The same of any number of elements, as TMA moves them: aligned to an element is enough.
  void read_row(const void* address, std::size_t bytes, const char* what, Site site) const;
  void write_row(void* address, std::size_t bytes, std::uint32_t thread, const char* what, Site site);

 private:
  std::size_t find(const void* address, std::size_t bytes, std::size_t alignment, bool writes,
                   const char* what, Site site) const;
  void mark(std::size_t range, const void* address, std::size_t bytes, std::uint32_t thread, const char* what,
            Site site);

  std::vector<Range> ranges_;
  std::vector<std::vector<std::uint32_t>> writers_;  // of every 2 bytes of a writable range: thread + 1, or 0
};

}  // namespace simt::emulator

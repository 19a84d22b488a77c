#include "global.h"

#include <utility>

namespace simt::emulator {

namespace {

constexpr std::size_t kUnit = 2;  // bytes: no element is smaller

}  // namespace

GlobalMemory::GlobalMemory(std::vector<Range> ranges) : ranges_(std::move(ranges)) {
  for (const Range& range : ranges_)
    writers_.emplace_back(range.writable ? (range.bytes + kUnit - 1) / kUnit : 0, 0u);
}

std::size_t GlobalMemory::find(const void* address, std::size_t bytes, std::size_t alignment, bool writes,
                               const char* what, Site site) const {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  if (at % alignment != 0)
    fail(std::string("misaligned: ") + what + " of " + std::to_string(bytes) +
             " bytes at a global address that is " + std::to_string(at % alignment) + " bytes off",
         site);
  for (std::size_t i = 0; i < ranges_.size(); i++) {
    const Range& range = ranges_[i];
    if (at >= range.begin && at + bytes <= range.begin + range.bytes && (range.writable || !writes)) return i;
  }
  fail(std::string("out of bounds: ") + what + (writes ? " writes" : " reads") +
           " global memory that no argument covers",
       site);
}

void GlobalMemory::read(const void* address, std::size_t bytes, const char* what, Site site) const {
  find(address, bytes, bytes, false, what, site);
}

void GlobalMemory::read_row(const void* address, std::size_t bytes, const char* what, Site site) const {
  find(address, bytes, kUnit, false, what, site);
}

void GlobalMemory::write(void* address, std::size_t bytes, std::uint32_t thread, const char* what,
                         Site site) {
  mark(find(address, bytes, bytes, true, what, site), address, bytes, thread, what, site);
}

void GlobalMemory::write_row(void* address, std::size_t bytes, std::uint32_t thread, const char* what,
                             Site site) {
  mark(find(address, bytes, kUnit, true, what, site), address, bytes, thread, what, site);
}

void GlobalMemory::mark(std::size_t range, const void* address, std::size_t bytes, std::uint32_t thread,
                        const char* what, Site site) {
  const std::size_t first = (reinterpret_cast<std::uintptr_t>(address) - ranges_[range].begin) / kUnit;
  for (std::size_t unit = first; unit < first + bytes / kUnit; unit++) {
    std::uint32_t& writer = writers_[range][unit];
    if (writer != 0 && writer != thread + 1)
      fail(std::string("race: ") + what + " writes global memory that thread " + std::to_string(writer - 1) +
               " of the launch wrote too",
           site);
    writer = thread + 1;
  }
}

}  // namespace simt::emulator

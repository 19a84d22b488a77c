// How what the emulator finds becomes an exception.
#pragma once

#include <stdexcept>
#include <string>

namespace simt::emulator {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The line of the kernel that called into the emulator.
struct Site {
  const char* file;
  int line;

  static Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
  bool operator==(const Site& other) const { return file == other.file && line == other.line; }
  std::string text() const;
};

// Ends the launch: says what is wrong, which thread did it and where. Called on a fiber, which is never
// resumed.
[[noreturn]] void fail(const std::string& what, Site site);

}  // namespace simt::emulator

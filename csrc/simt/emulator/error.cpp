#include "error.h"

#include "block.h"

namespace simt::emulator {

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

}  // namespace simt::emulator

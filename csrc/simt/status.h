// How a call from the host went.
#pragma once

namespace simt {

struct Status {
  int code;  // 0: it is done, or under way on its stream; below 0: an argument; above: a cudaError_t
  const char* message;  // null where the code is 0; static storage
};

using Stream = void*;  // a cudaStream_t, where there is a device

}  // namespace simt

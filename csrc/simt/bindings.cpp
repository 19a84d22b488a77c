// fewstep_kernels._sim: the same kernels in the emulator. What it finds wrong is a RuntimeError.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "../arguments.h"
#include "emulator/launch.h"

using Ranges =
    std::vector<std::tuple<std::uintptr_t, std::size_t, bool>>;  // address, bytes, whether it may be written

static std::map<std::string, long> attention_fwd(const Pointers& pointers, const Strides& strides,
                                                 const Sizes& sizes, bool is_half, float scale,
                                                 const std::string& design, int multiprocessors, int arch,
                                                 const Ranges& ranges, std::uint64_t seed,
                                                 std::size_t shared_limit) {
  const attention::Params params = attention_params(pointers, strides, sizes, scale, multiprocessors, arch);
  simt::emulator::Options options;
  options.seed = seed;
  options.shared_limit = shared_limit;
  for (const auto& [address, bytes, writable] : ranges) options.ranges.push_back({address, bytes, writable});
  simt::emulator::Emulation emulation(options);
  const simt::Status status = attention::attention_fwd(params, attention_type(is_half), design, nullptr);
  if (status.code != 0) throw std::invalid_argument(status.message);
  const simt::emulator::Counters& did = emulation.counters();
  return {{"blocks", did.blocks},     {"mma", did.mma},
          {"wgmma", did.wgmma},       {"multiply_accumulates", did.multiply_accumulates},
          {"ldmatrix", did.ldmatrix}, {"copies", did.copies},
          {"boxes", did.boxes},       {"box_bytes", did.box_bytes},
          {"barriers", did.barriers}};
}

PYBIND11_MODULE(_sim, module) {
  module.def("attention_fwd", &attention_fwd);
  module.def("designs", &attention::designs);
}

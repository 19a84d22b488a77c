// Small kernels for tests/test_emulator_sm90.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <map>
#include <stdexcept>
#include <string>

#include "emulator_sm90_pipeline.h"
#include "simt.h"

using Address = std::uintptr_t;

constexpr std::size_t kSharedLimit = 232448;

static simt::TensorMap rows_of_64(Address data, int rows) {
  simt::TensorMap map;
  const auto count = static_cast<std::uint64_t>(rows);
  const simt::TensorView view{
      reinterpret_cast<void*>(data), {64, count, 1, 1}, {128, 128 * count, 128 * count}, {64, 64, 1, 1}};
  const simt::Status status = simt::encode(map, view);
  if (status.code != 0) throw std::invalid_argument(status.message);
  return map;
}

// [128, 64] for q and o, [keys, 64] for k and v, all bfloat16.
static std::map<std::string, long> run_pipeline(Address q, Address k, Address v, Address o, int keys, int bug,
                                                std::uint64_t seed) {
  constexpr int kRows = pipeline::kConsumers * pipeline::kRows;
  const std::size_t bytes = 128 * static_cast<std::size_t>(keys);
  simt::emulator::Options options;
  options.seed = seed;
  options.shared_limit = kSharedLimit;
  options.ranges = {{q, 128 * kRows, false}, {k, bytes, false}, {v, bytes, false}, {o, 128 * kRows, true}};
  simt::emulator::Emulation emulation(options);
  const pipeline::Maps maps{rows_of_64(q, kRows), rows_of_64(k, keys), rows_of_64(v, keys),
                            rows_of_64(o, kRows)};
  const int tiles = (keys + pipeline::kTile - 1) / pipeline::kTile;
  simt::launch(pipeline::run<simt::bfloat16>, 1, pipeline::kThreads, pipeline::kSharedBytes, nullptr, maps,
               tiles, static_cast<Bug>(bug));
  const simt::emulator::Counters& did = emulation.counters();
  return {{"wgmma", did.wgmma},
          {"multiply_accumulates", did.multiply_accumulates},
          {"boxes", did.boxes},
          {"box_bytes", did.box_bytes}};
}

PYBIND11_MODULE(emulator_sm90_kernels, module) { module.def("pipeline", &run_pipeline); }

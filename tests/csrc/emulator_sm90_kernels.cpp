// Small kernels for tests/csrc/test_emulator_sm90.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <map>
#include <stdexcept>
#include <string>

#include "emulator_sm90_copies.h"
#include "emulator_sm90_products.h"
#include "emulator_sm90_threads.h"
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

#define NAMED(kernel) {#kernel, &kernel}
static const std::map<std::string, void (*)(const Given&)> kKernels = {
    NAMED(told_by_every_thread),
    NAMED(told_by_one_lane_after_meeting),
    NAMED(told_by_one_lane_for_others),
    NAMED(heard_by_one_lane_before_meeting),
    NAMED(heard_by_one_lane_for_others),
    NAMED(arrives_and_does_not_wait),
    NAMED(writes_after_it_arrived),
    NAMED(phases_in_turn),
    NAMED(not_initialised),
    NAMED(initialised_by_another),
    NAMED(initialised_twice),
    NAMED(initialised_for_nobody),
    NAMED(initialised_off_8_bytes),
    NAMED(not_shown_to_tma),
    NAMED(shown_to_tma_after_meeting),
    NAMED(one_arrival_more),
    NAMED(fewer_bytes_expected),
    NAMED(more_bytes_expected),
    NAMED(too_many_bytes_expected),
    NAMED(no_arrival),
    NAMED(no_such_parity),
    NAMED(barrier_stored_to),
    NAMED(barrier_loaded_from),
    NAMED(barrier_under_a_box),
    NAMED(loaded_and_read_at_once),
    NAMED(loaded_and_overwritten),
    NAMED(loaded_and_waited_for_by_another),
    NAMED(loaded_for_nobody),
    NAMED(loaded_twice_to_one_place),
    NAMED(loaded_over_what_others_read),
    NAMED(loaded_over_unfenced_stores),
    NAMED(loaded_off_1024_bytes),
    NAMED(loaded_beyond_shared),
    NAMED(loaded_beyond_global),
    NAMED(loaded_by_no_map),
    NAMED(stored_and_awaited),
    NAMED(stored_unfenced),
    NAMED(stored_unordered),
    NAMED(stored_fenced_too_early),
    NAMED(stored_and_fenced_after_meeting),
    NAMED(stored_and_overwritten),
    NAMED(stored_and_left),
    NAMED(stored_and_not_committed),
    NAMED(stored_and_one_group_left),
    NAMED(stored_by_two),
    NAMED(stored_uninitialised),
    NAMED(stored_to_what_is_read_only),
    NAMED(handed_over_in_step),
    NAMED(handed_over_without_waiting),
    NAMED(turns_at_two_barriers),
    NAMED(arrival_left_at_the_end),
    NAMED(arrives_and_reads),
    NAMED(writes_after_arriving),
    NAMED(for_different_numbers),
    NAMED(for_half_a_warp),
    NAMED(for_more_than_the_block),
    NAMED(barrier_16),
    NAMED(lanes_at_two_barriers),
    NAMED(comes_twice),
    NAMED(nobody_else_comes),
    NAMED(both_kinds_of_barrier_0),
    NAMED(registers_change_hands),
    NAMED(registers_not_given_enough),
    NAMED(registers_given_upwards),
    NAMED(registers_taken_downwards),
    NAMED(registers_off_a_multiple_of_8),
    NAMED(registers_too_few),
    NAMED(registers_by_one_warp),
    NAMED(matrices_stored_off_16_bytes),
    NAMED(matrices_stored_and_read),
    NAMED(matrices_stored_to_one_row),
    NAMED(products_in_a_chain),
    NAMED(only_the_older_group_lands),
    NAMED(not_fenced),
    NAMED(second_group_not_fenced),
    NAMED(accumulators_written_after_the_fence),
    NAMED(fragment_written_after_the_fence),
    NAMED(landed_after_the_fence),
    NAMED(operands_unfenced),
    NAMED(operands_fenced_by_one),
    NAMED(operands_unordered),
    NAMED(operands_uninitialised),
    NAMED(operand_loaded_and_not_awaited_by_all),
    NAMED(operand_stored_to),
    NAMED(operand_loaded_over),
    NAMED(operand_stored_to_by_one_warp),
    NAMED(accumulators_changed),
    NAMED(accumulators_taken_twice),
    NAMED(fragment_changed),
    NAMED(product_left),
    NAMED(product_not_committed),
    NAMED(wait_names_other_accumulators),
    NAMED(rows_off_1024_bytes),
    NAMED(stride_off_1024_bytes),
    NAMED(another_swizzle),
    NAMED(a_base_offset),
    NAMED(depth_beyond_the_row),
    NAMED(operand_beyond_shared),
    NAMED(leading_off_1024_bytes),
    NAMED(columns_beyond_the_row),
    NAMED(threads_differ),
    NAMED(one_warp_commits_alone),
    NAMED(one_warp_returns),
    NAMED(no_whole_warpgroup),
};

// One block; 64 rows of 64 elements at `in` and at `out`.
static void run(const std::string& name, Address in, Address out, int threads, std::uint64_t seed) {
  simt::emulator::Options options;
  options.seed = seed;
  options.shared_limit = kSharedLimit;
  options.ranges = {{in, kBox, false}, {out, kBox, true}};
  simt::emulator::Emulation emulation(options);
  const Given given{reinterpret_cast<const Bytes*>(in),
                    reinterpret_cast<Bytes*>(out),
                    rows_of_64(in, 64),
                    rows_of_64(out, 64),
                    rows_of_64(in, 80),
                    {}};
  simt::launch(kKernels.at(name), 1, threads, kSharedBytes, nullptr, given);
}

// What `encode` says of a tensor; empty if nothing.
static std::string refusal(Address data, const std::array<std::uint64_t, 4>& sizes,
                           const std::array<std::uint64_t, 3>& strides,
                           const std::array<std::uint32_t, 4>& box) {
  simt::TensorView view{reinterpret_cast<void*>(data), {}, {}, {}};
  std::copy(sizes.begin(), sizes.end(), view.sizes);
  std::copy(strides.begin(), strides.end(), view.strides);
  std::copy(box.begin(), box.end(), view.box);
  simt::TensorMap map;
  const simt::Status status = simt::encode(map, view);
  return status.code == 0 ? "" : status.message;
}

PYBIND11_MODULE(emulator_sm90_kernels, module) {
  module.def("run", &run);
  module.def("refusal", &refusal);
}

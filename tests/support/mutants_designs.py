"""Bugs to plant in the designs of sm_90a's attention kernel, as mutants_sm80.py has them for another.

Where a design rescales only what has risen by much, the logits must rise: the keys that come first are small.
"""

from support.mutants_sm80 import Mutant
from support.mutants_sm90 import CONSUME, MAPS

SOFTMAX, RUNS = "attention/sm90/exponentials.h", "attention/sm90/runs.h"

MUTANTS = {
    "lazy_sum_not_rescaled": Mutant(
        "a maximum rises, and the sum stays",
        "numbers", SOFTMAX, "        state.sum[r] *= correction[r];\n", "", "Lazy",
    ),
    "lazy_values_not_rescaled": Mutant(
        "a maximum rises, and what was accumulated stays",
        "numbers", CONSUME, "    if (changed) rescale(o, correction);\n", "", "Lazy",
    ),
    "lazy_rise_not_seen": Mutant(
        "a rise counts where there was none before",
        "numbers", SOFTMAX, "(max[r] - state.max[r]) * scale_log2 > kRise", "(max[r] - state.max[r]) > 1e30f", "Lazy",
    ),
    "lazy_maximum_moves_alone": Mutant(
        "a maximum that rises by little is taken, and nothing is brought to it",
        "numbers", SOFTMAX, "state.max[r] = rises[r] ? max[r] : state.max[r];", "state.max[r] = max[r];", "Lazy",
    ),
    "packed_over_p_in_use": Mutant(
        "the next p is packed over the one that a product reads",
        "in flight", CONSUME, "        of.next(other, p);", "        of.next(other, other);", "PackedLazy",
    ),
    "packed_last_p_is_old": Mutant(
        "the last product takes the p before the last",
        "numbers", CONSUME, "        of.last(other);", "        of.last(p);", "PackedLazy",
    ),
    "polynomial_without_bias": Mutant(
        "the exponent of the power of 2 is 127 too small",
        "numbers", SOFTMAX, "kInteger = 12583039.0f", "kInteger = 12582912.0f", "PackedLazyPoly8",
    ),
    "polynomial_unclamped": Mutant(
        "an exponent below -127 wraps",
        "numbers", SOFTMAX, "  x = simt::maximum_or_nan(x, -127.0f);\n", "", "PackedLazyPoly8",
    ),
    "padded_columns_stored": Mutant(
        "the map of the result is as wide as the padded product",
        "race", MAPS, "simt::TensorView tensor{\n      view.data,\n      {std::uint64_t(params.head_dim),",
        "simt::TensorView tensor{\n      view.data,\n      {std::uint64_t(box_rows == 16 ? kPanel : params.head_dim),",
        "Padded",
    ),
    "runs_queries_room_not_awaited": Mutant(
        "queries come over a result that is not read yet",
        "mbarrier", RUNS,
        "    simt::mbarrier_wait(memory.queries_empty + at_queries.stage, at_queries.parity ^ 1);\n", "", "Runs",
    ),
    "runs_parity_of_one_buffer": Mutant(
        "the parity of the queries turns with each tile, as if there were one buffer",
        "deadlock", RUNS, "simt::mbarrier_wait(memory.queries_full + at_queries.stage, at_queries.parity);",
        "simt::mbarrier_wait(memory.queries_full + at_queries.stage, at_queries.stage);", "Runs",
    ),
    "runs_keys_of_another_head": Mutant(
        "keys and values are not fetched again when the head changes",
        "deadlock", RUNS, "begins = ++within == tiles_of_head;\n    if (!begins) return;",
        "begins = false;\n    if (++within < tiles_of_head) return;", "Runs",
    ),
    "runs_head_not_counted": Mutant(
        "the keys that are fetched again are those of the same head",
        "numbers", RUNS, "    load_tile<S>(memory.keys, maps.k, S::kKeys, 0, of, memory.keys_full);",
        "    load_tile<S>(memory.keys, maps.k, S::kKeys, 0, Tile{0, 0, 0}, memory.keys_full);", "Runs",
    ),
    "runs_keys_awaited_once": Mutant(
        "the keys of the next head are not awaited",
        "race", RUNS, "simt::mbarrier_wait(memory.keys_full, at_keys.parity);",
        "if (at_keys.parity == 0) simt::mbarrier_wait(memory.keys_full, 0);", "Runs",
    ),
    "runs_keys_given_back_every_tile": Mutant(
        "keys are given back while tiles of their head are still to come",
        "race", RUNS, "if (ends) release(memory.keys_empty);", "release(memory.keys_empty);", "Runs",
    ),
    "runs_last_tile_left_out": Mutant(
        "tiles that do not divide evenly are nobody's",
        "numbers", RUNS, "left = each + (block < more);", "left = each;", "Runs",
    ),
}  # fmt: skip

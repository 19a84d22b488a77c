"""Bugs to plant in the attention kernel of sm_80, one at a time: each is a change of a few characters that compiles.

Each says what it is and what must catch it: a word of the emulator's, of which csrc/simt/README.md has a table, or
"numbers": the emulator saw nothing wrong, and the result is more than twice as far from float64 as torch's. What is
planted in softmax.h is planted in the kernel of sm_90a as well.
"""

from typing import NamedTuple

KERNEL, LOAD = "attention/sm80/kernel.h", "attention/sm80/load.h"
MULTIPLY, SOFTMAX = "attention/sm80/multiply.h", "attention/softmax.h"
STORE, SHAPE = "attention/sm80/store.h", "attention/sm80/shape.h"

FIRST_WAIT = """    simt::cp_async_wait<1>();
    simt::sync_block();
    if constexpr (!S::kOneTile) {
      if (next_key < params.keys)
        load_tile<S::kDepth"""
SECOND_WAIT = """    simt::cp_async_wait<1>();
    simt::sync_block();
    if constexpr (!S::kOneTile) {
      if (next_key < params.keys)
        load_tile<S::kHeadDim"""


class Mutant(NamedTuple):
    """A planted bug, and what must catch it: how the emulator's message begins, or "numbers"."""

    bug: str
    caught_by: str
    file: str
    correct: str
    wrong: str
    design: str = "Exact"  # of the kernel of sm_90a, as designs.h calls the type


MUTANTS = {
    "keys_not_awaited": Mutant(
        "no wait for the copies of a tile of keys",
        "race", KERNEL, FIRST_WAIT, FIRST_WAIT.replace("simt::cp_async_wait<1>();", ""),
    ),
    "values_awaited_too_late": Mutant(
        "the wait for values leaves one group too many open",
        "race", KERNEL, SECOND_WAIT, SECOND_WAIT.replace("wait<1>", "wait<2>"),
    ),
    "no_barrier_for_keys": Mutant(
        "no barrier between the copies of keys and their use",
        "race", KERNEL, FIRST_WAIT, FIRST_WAIT.replace("simt::sync_block();", ""),
    ),
    "no_barrier_for_values": Mutant(
        "no barrier between the copies of values and their use",
        "race", KERNEL, SECOND_WAIT, SECOND_WAIT.replace("simt::sync_block();", ""),
    ),
    "barrier_before_wait": Mutant(
        "the barrier comes before the wait, so it covers only this thread's copies",
        "race", KERNEL, FIRST_WAIT,
        FIRST_WAIT.replace("simt::cp_async_wait<1>();\n    simt::sync_block();",
                           "simt::sync_block();\n    simt::cp_async_wait<1>();"),
    ),
    "wrong_stage_read": Mutant(
        "the product with the keys reads the stage that is being filled",
        "race", KERNEL, "keys + stage * S::kKeyStage", "keys + other * S::kKeyStage",
    ),
    "wrong_stage_filled": Mutant(
        "the next values are copied over those in use",
        "race", KERNEL, "values + other * S::kValueStage", "values + stage * S::kValueStage",
    ),
    "stage_never_turns": Mutant(
        "the stage stays 0",
        "numbers", KERNEL, "stage ^= S::kStages - 1", "stage ^= 0",
    ),
    "copies_at_the_end": Mutant(
        "a tile beyond the last is copied and never waited for",
        "unfinished copies", KERNEL, SECOND_WAIT,
        SECOND_WAIT.replace("if (next_key < params.keys)", "if (next_key <= params.keys + S::kKeys)"),
    ),
    "warp_leaves_early": Mutant(
        "a warp without queries returns before the barriers",
        "early exit", KERNEL, "  const float scale_log2 = params.scale * kLog2E;",
        "  const float scale_log2 = params.scale * kLog2E;\n"
        "  if (first_row + warp * S::kWarpRows >= params.queries) return;",
    ),
    "half_a_warp_shuffles": Mutant(
        "half of the lanes skip a shuffle",
        "deadlock", SOFTMAX, "  return quad_max(max);",
        "  return simt::thread_index() % 32 < 16 ? quad_max(max) : max;",
    ),
    "lanes_part_ways": Mutant(
        "half of the lanes take another shuffle",
        "divergence", SOFTMAX, "  return quad_max(max);",
        "  return simt::thread_index() % 32 < 16 ? quad_max(max) : quad_sum(max);",
    ),
    "columns_not_filled": Mutant(
        "the columns that pad the queries are not set to zero",
        "uninitialised", KERNEL, "load_tile<S::kDepth, S::kRow>(queries", "load_tile<S::kHeadDim, S::kRow>(queries",
    ),
    "rows_too_close": Mutant(
        "rows in shared memory 8 bytes off a multiple of 16",
        "misaligned", SHAPE, "kRow = kDepth + 8", "kRow = kDepth + 4",
    ),
    "values_read_by_rows_of_keys": Mutant(
        "the padding of the values is taken for that of the keys",
        "out of bounds", MULTIPLY, "simt::ldmatrix_x4_trans(b, corner + 16 * k * S::kValueRow + 8 * n);",
        "simt::ldmatrix_x4_trans(b, corner + 16 * k * S::kRow + 8 * n);",
    ),
    "too_little_shared_memory": Mutant(
        "shared memory for one stage of two",
        "out of bounds", SHAPE, "kStages * (kKeyStage", "1 * (kKeyStage",
    ),
    "keys_not_masked": Mutant(
        "keys that do not exist are not masked",
        "numbers", KERNEL, "if (next_key > params.keys) mask_keys", "if (false) mask_keys",
    ),
    "mask_off_by_one": Mutant(
        "the first key that does not exist is not masked",
        "numbers", SOFTMAX, "i % 2 >= valid", "i % 2 > valid",
    ),
    "tail_off_by_one": Mutant(
        "one row beyond the last is copied",
        "out of bounds", LOAD, "first + row < source.count", "first + row <= source.count",
    ),
    "columns_of_the_next_head": Mutant(
        "columns beyond the head dim are copied, not zero",
        "out of bounds", LOAD, " && column < source.head_dim", "",
    ),
    "wrong_ldmatrix_row": Mutant(
        "lanes 8 to 15 and 24 to 31 name the rows of the eight before them for the queries",
        "numbers", MULTIPLY, "(16 * row_tile + lane % 16) * S::kRow", "(16 * row_tile + lane % 8) * S::kRow",
    ),
    "swapped_fragment": Mutant(
        "two registers of a fragment of keys are swapped",
        "numbers", MULTIPLY, "mma_m16n8k16<T>(s[m][n], a[m], b[0], b[1])",
        "mma_m16n8k16<T>(s[m][n], a[m], b[1], b[0])",
    ),
    "swapped_rows_of_p": Mutant(
        "the fragment of p has its rows and columns in the order of the other operand",
        "numbers", SOFTMAX, "p[2 * k + i / 2][2 * (i % 2)], p[2 * k + i / 2][2 * (i % 2) + 1]",
        "p[2 * k + i % 2][2 * (i / 2)], p[2 * k + i % 2][2 * (i / 2) + 1]",
    ),
    "scale_of_base_e": Mutant(
        "the scale of e's powers for powers of 2",
        "numbers", KERNEL, "params.scale * kLog2E;", "params.scale;",
    ),
    "accumulator_not_rescaled": Mutant(
        "what was accumulated under a smaller maximum is kept as it was",
        "numbers", SOFTMAX, "o[n][i] *= correction[i / 2];", "static_cast<void>(correction[i / 2]);",
    ),
    "sum_not_rescaled": Mutant(
        "what was summed under a smaller maximum is kept as it was",
        "numbers", SOFTMAX, "    state.sum[r] *= correction[r];\n", "",
    ),
    "sum_of_one_lane": Mutant(
        "each lane divides by the sum of its own columns",
        "numbers", STORE, "simt::reciprocal(quad_sum(state[m].sum[r]))", "simt::reciprocal(state[m].sum[r])",
    ),
    "rows_stored_too_early": Mutant(
        "lanes store what others have not yet put down",
        "race", STORE, "  simt::sync_warp();\n", "",
    ),
    "rows_of_the_first_warp": Mutant(
        "every warp stores to the rows of the first",
        "race", KERNEL, "params.o.row_stride, first_row + warp * S::kWarpRows,", "params.o.row_stride, first_row,",
    ),
    "store_not_masked": Mutant(
        "rows that do not exist are stored",
        "out of bounds", STORE, "first + row < count && column", "column",
    ),
}  # fmt: skip

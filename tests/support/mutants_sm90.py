"""Bugs to plant in the attention kernel of sm_90a: each is a change of a few characters that compiles.

What each is and what must catch it stands beside it; mutants_sm80.py tells in which words.
"""

from support.mutants_sm80 import Mutant

BLOCK, PRODUCE, CONSUME = (f"attention/sm90/{name}.h" for name in ("block", "produce", "consume"))
MULTIPLY, STORE, SHAPE = (f"attention/sm90/{name}.h" for name in ("multiply", "store", "shape"))
MAPS, KERNEL, WORK = (f"attention/sm90/{name}.h" for name in ("maps", "kernel", "work"))

NEXT_KEYS = """    simt::mbarrier_wait(memory.keys_full + at_keys.stage, at_keys.parity);
    Turns<S>::take(consumer);
"""
RELEASE_KEYS = """    simt::wgmma_wait<0>(s);
    release(memory.keys_empty + at_keys.stage);
"""
RELEASE_VALUES = """    simt::wgmma_wait<0>(o);
    release(memory.values_empty + at_values.stage);
    at_values = next;
"""

MUTANTS = {
    "keys_not_awaited": Mutant(
        "no wait for the barrier of a tile of keys",
        "race", CONSUME, NEXT_KEYS, NEXT_KEYS.replace("simt::mbarrier_wait", "if (false) simt::mbarrier_wait"),
    ),
    "values_not_awaited": Mutant(
        "no wait for the barrier of the next tile of values",
        "race", CONSUME, "    simt::mbarrier_wait(memory.values_full + next.stage, next.parity);\n", "",
    ),
    "wrong_parity_of_arrival": Mutant(
        "a consumer waits for the phase before",
        "deadlock", CONSUME, "simt::mbarrier_wait(memory.values_full + next.stage, next.parity);",
        "simt::mbarrier_wait(memory.values_full + next.stage, next.parity ^ 1);",
    ),
    "wrong_parity_of_room": Mutant(
        "the producer waits for the phase to come",
        "deadlock", PRODUCE, "empty + at.stage, at.parity ^ 1", "empty + at.stage, at.parity",
    ),
    "room_not_awaited": Mutant(
        "the producer does not wait until a stage is free",
        "mbarrier", PRODUCE, "    simt::mbarrier_wait(empty + at.stage, at.parity ^ 1);\n", "",
    ),
    "parity_never_turns": Mutant(
        "the parity stays 0 when the stages have gone round",
        "mbarrier", BLOCK, "    parity ^= 1;", "    parity ^= 0;",
    ),
    "too_few_bytes_expected": Mutant(
        "a barrier expects the bytes of one panel of two",
        "race", PRODUCE, "simt::mbarrier_arrive_expect(full, S::kPanels * rows * kRowBytes);",
        "simt::mbarrier_arrive_expect(full, rows * kRowBytes);",
    ),
    "too_many_bytes_expected": Mutant(
        "a barrier expects bytes for padding that nobody sends",
        "deadlock", PRODUCE, "simt::mbarrier_arrive_expect(full, S::kPanels * rows * kRowBytes);",
        "simt::mbarrier_arrive_expect(full, S::kPanels * rows * kRowBytes + 128);",
    ),
    "one_consumer_counted": Mutant(
        "a stage counts as empty when one of two consumers is done with it",
        "deadlock", BLOCK, "simt::mbarrier_init(keys_empty + i, S::kConsumers * kWarps);",
        "simt::mbarrier_init(keys_empty + i, kWarps);",
    ),
    "too_many_arrivals_counted": Mutant(
        "a barrier counts a warp that never comes",
        "deadlock", BLOCK, "simt::mbarrier_init(values_empty + i, S::kConsumers * kWarps);",
        "simt::mbarrier_init(values_empty + i, S::kConsumers * kWarps + 1);",
    ),
    "released_too_early": Mutant(
        "keys are given back before the products with them are awaited",
        "race", CONSUME, RELEASE_KEYS, "".join(reversed(RELEASE_KEYS.splitlines(keepends=True))),
    ),
    "barriers_not_fenced": Mutant(
        "no fence between making the barriers and TMA's use of them",
        "mbarrier", BLOCK, "    simt::fence_mbarrier_init();\n", "",
    ),
    "barriers_not_shared": Mutant(
        "no barrier of the block between making the barriers and their use",
        "race", KERNEL, "  simt::sync_block();\n", "",
    ),
    "no_room_for_barriers": Mutant(
        "shared memory for the tiles alone",
        "out of bounds", SHAPE, "kSharedBytes = kTileBytes + kBarrierBytes;", "kSharedBytes = kTileBytes;",
    ),
    "queries_of_the_first": Mutant(
        "both consumers get the queries of the first",
        "numbers", PRODUCE, "kRows, of.first_row + c * kRows,", "kRows, of.first_row,",
    ),
    "keys_in_another_order": Mutant(
        "the keys begin with the first tile, the values and the mask with the last",
        "numbers", PRODUCE, "maps.k, of, j,", "maps.k, of, work.key_tiles - 1 - j,",
    ),
    "keys_not_masked": Mutant(
        "keys that do not exist are not masked",
        "numbers", CONSUME, "    mask_keys(s, work.last_keys);\n", "",
    ),
    "wrong_number_of_last_keys": Mutant(
        "the last tile of keys is thought to be full",
        "numbers", WORK, "params.keys - (key_tiles - 1) * S::kKeys,", "S::kKeys,",
    ),
    "depth_of_half_a_step": Mutant(
        "a step of depth moves 16 bytes, not 32",
        "numbers", MULTIPLY, "within = step % 4 * 32;", "within = step % 4 * 16;",
    ),
    "second_panel_missed": Mutant(
        "the depth goes on beyond a panel's 64 columns",
        "numbers", MULTIPLY, "const int panel = step / 4,", "const int panel = 0 * step,",
    ),
    "wrong_panels_of_values": Mutant(
        "the values' second panel is sought after 64 rows",
        "numbers", MULTIPLY, "simt::matrix_descriptor(values, S::kKeys * kRowBytes, kGroupBytes)",
        "simt::matrix_descriptor(values, kRows * kRowBytes, kGroupBytes)",
    ),
    "wrong_groups_of_rows": Mutant(
        "groups of 8 rows of keys are sought 512 bytes apart",
        "descriptor", MULTIPLY, "simt::matrix_descriptor(keys, kNoLeading, kGroupBytes)",
        "simt::matrix_descriptor(keys, kNoLeading, kGroupBytes / 2)",
    ),
    "first_product_accumulates": Mutant(
        "the logits of a tile are added to those of the one before",
        "numbers", MULTIPLY, "kUnit, step > 0);", "kUnit, true);",
    ),
    "products_not_fenced": Mutant(
        "no fence between writing p and the product that reads it",
        "unfenced", MULTIPLY, """S::kKeys * kRowBytes, kGroupBytes);
  simt::wgmma_fence(o, p);""", "S::kKeys * kRowBytes, kGroupBytes);",
    ),
    "logits_read_too_early": Mutant(
        "the softmax does not wait for the product with the keys",
        "unfinished products", CONSUME, "    simt::wgmma_wait<1>(s);\n", "",
    ),
    "p_overwritten_in_flight": Mutant(
        "the next p is written while the product with the last still reads it",
        "in flight", CONSUME, "    // Here and not where",
        "    pack_fragment<T>(made[0], s, 0);\n    // Here and not where",
    ),
    "values_released_too_early": Mutant(
        "values are given back before the products with them are awaited",
        "race", CONSUME, RELEASE_VALUES, RELEASE_VALUES.replace(
            "simt::wgmma_wait<0>(o);\n    release(memory.values_empty + at_values.stage);",
            "release(memory.values_empty + at_values.stage);\n    simt::wgmma_wait<0>(o);"),
    ),
    "values_not_rescaled": Mutant(
        "what was accumulated under a smaller maximum stays",
        "numbers", CONSUME, "    if (changed) rescale(o, correction);\n", "",
    ),
    "turn_passed_to_itself": Mutant(
        "a consumer passes the turn to itself",
        "named barrier", CONSUME, "simt::named_arrive(kFirst + 1 - consumer,", "simt::named_arrive(kFirst + consumer,",
    ),
    "nobody_begins": Mutant(
        "no consumer has the first turn",
        "deadlock", CONSUME, "  Turns<S>::begin(consumer);\n", "",
    ),
    "too_many_registers": Mutant(
        "the consumers take more registers than the producer gave",
        "deadlock", KERNEL, "take_registers<S::kConsumerRegisters>", "take_registers<S::kConsumerRegisters + 8>",
    ),
    "consumer_leaves_early": Mutant(
        "a consumer leaves before its last tile",
        "deadlock", CONSUME, "  Turns<S>::begin(consumer);\n",
        "  Turns<S>::begin(consumer);\n  if (consumer == 1 && work.tiles % 2 == 0) return;\n",
    ),
    "staged_over_queries": Mutant(
        "the result is staged over queries that other warps still read",
        "race", CONSUME, "    meet<S>(consumer);", "    //",
    ),
    "stored_unswizzled": Mutant(
        "the result is staged without the swizzle",
        "numbers", STORE, "((n % kChunks) ^ (row % 8)) * kChunk", "(n % kChunks) * kChunk",
    ),
    "store_not_fenced": Mutant(
        "no proxy fence between staging the result and TMA's store of it",
        "race", STORE, "  simt::fence_proxy_async();\n", "",
    ),
    "store_before_the_warp_is_done": Mutant(
        "the result is sent off before all lanes have put theirs down",
        "race", STORE, "  simt::sync_warp();\n", "",
    ),
    "room_given_before_the_store_has_read": Mutant(
        "queries may come over a result that is not read yet",
        "race", STORE, "    simt::tma_store_wait_read<0>();\n", "",
    ),
    "rows_of_the_first_warp": Mutant(
        "every warp stores to the rows of the first",
        "race", STORE, "first_row + warp * kWarpRows,", "first_row,",
    ),
    "store_not_clipped": Mutant(
        "the map of the result has more rows than the result",
        "out of bounds", MAPS, "map_view(maps.o, params.o, params, params.queries, kRows / kWarps)",
        "map_view(maps.o, params.o, params, params.queries + 1, kRows / kWarps)",
    ),
}  # fmt: skip

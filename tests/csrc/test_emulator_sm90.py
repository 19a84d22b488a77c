"""The emulator of sm_90: what it must let pass, and what it must report; bytes are in test_sm90_probes.py."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from support.simulation import builder
from support.tree import ROOT, load

pytestmark = pytest.mark.slow

SEEDS = range(5)
LATER = "|mbarrier: mbarrier.arrive at byte .* where none was initialised"  # in the orders in which nobody came first
UNSEEN = "|uninitialised: a load reads"


@functools.cache
def kernels() -> Any:
    """The module of tests/csrc/emulator_sm90_kernels.cpp."""
    source = ROOT / "tests" / "csrc" / "emulator_sm90_kernels.cpp"
    return load("emulator_sm90_kernels", builder().build_kernels(ROOT / "build" / "sim", source))


def run(kernel: str, seed: int = 0, threads: int = 128) -> Tensor:
    """What each thread stored, [256, 4] words; 77 where it stored nothing."""
    given = torch.ones(64, 64, dtype=torch.bfloat16)
    out = torch.full((2048,), 77, dtype=torch.int32)
    kernels().run(kernel, given.data_ptr(), out.data_ptr(), threads, seed)
    return out[:1024].reshape(256, 4)


PASSES = {
    "told_by_one_lane_after_meeting": 128,
    "heard_by_one_lane_before_meeting": 128,
    "phases_in_turn": 128,
    "stored_and_awaited": 128,
    "turns_at_two_barriers": 128,
    "arrival_left_at_the_end": 128,
    "registers_change_hands": 256,
}

WRONG_MBARRIERS = {
    "told_by_one_lane_for_others": "race: a load reads .* written by thread .* with no barrier between",
    "heard_by_one_lane_for_others": "race: a load reads .* written by TMA with no wait at its mbarrier between",
    "arrives_and_does_not_wait": "race: a store writes .* written by thread .* with no barrier between",
    "writes_after_it_arrived": "race: a store writes byte 0 .* written by thread .* with no barrier between",
    "not_initialised": "mbarrier: mbarrier.arrive at byte 16384 of shared memory, where none was initialised",
    "initialised_by_another": "race: mbarrier.arrive on the mbarrier at byte 16384, initialised by another thread"
    + LATER,
    "initialised_twice": "mbarrier: mbarrier.init writes byte 16384 of shared memory, which is one",
    "initialised_for_nobody": "mbarrier: mbarrier.init with 0 arrivals",
    "initialised_off_8_bytes": "misaligned: mbarrier.init of 8 bytes at byte 4",
    "not_shown_to_tma": "mbarrier: a TMA load on the mbarrier at byte 16384, with no fence.mbarrier_init",
    "shown_to_tma_after_meeting": "mbarrier: a TMA load on .*, with no fence.mbarrier_init between",
    "one_arrival_more": "mbarrier: one arrival more at the mbarrier at byte 16384 than the 1 of its phase",
    "fewer_bytes_expected": r"mbarrier: 128 bytes more landed at .* 16384 than its phase expected \[block 0, thread 0,",
    "more_bytes_expected": "deadlock: 128 threads wait at mbarrier.try_wait .* lacks 0 arrivals and 128 bytes",
    "too_many_bytes_expected": "mbarrier: 1048576 bytes expected at the mbarrier at byte 16384",
    "no_arrival": "deadlock: 96 threads wait at mbarrier.try_wait .* at byte 16384 lacks 2 arrivals and 0 bytes",
    "no_such_parity": "mbarrier: mbarrier.try_wait for parity 2",
    "barrier_stored_to": "mbarrier: a store writes byte 16388 of shared memory, which is one",
    "barrier_loaded_from": "mbarrier: a load reads byte 16384 of shared memory, which is one",
    "barrier_under_a_box": "mbarrier: a TMA load writes byte 8184 of shared memory, which is one",
}

WRONG_BOXES = {
    "loaded_and_read_at_once": "race: a load reads .* (while a TMA load of thread 0 .* in flight|written by TMA)",
    "loaded_and_overwritten": "race: a store writes .* (while a TMA load of thread 0 .* in flight|written by TMA)",
    "loaded_and_waited_for_by_another": "race: a load reads .* (is in flight|written by TMA with no wait)",
    "loaded_for_nobody": "unfinished copies: 8192 bytes for the mbarrier at byte 16384 that no thread waited for",
    "loaded_twice_to_one_place": "race: a TMA load writes byte 0 .*(is in flight|written by TMA with no wait)",
    "loaded_over_what_others_read": "race: a TMA load writes .*, read by thread 32 of warp 1 with no barrier between",
    "loaded_over_unfenced_stores": "race: a TMA load writes .* written by thread .* no fence.proxy.async between",
    "loaded_off_1024_bytes": "misaligned: a TMA load of 8192 bytes at byte 128 of shared memory",
    "loaded_beyond_shared": "out of bounds: a TMA load at byte 9216 of 16448 bytes of shared memory",
    "loaded_beyond_global": "out of bounds: a TMA load reads global memory that no argument covers",
    "loaded_by_no_map": "tensor map: a TMA load by one that was not encoded",
    "stored_unfenced": "race: a TMA store reads byte .* written by thread .* with no fence.proxy.async between",
    "stored_fenced_too_early": "race: a TMA store reads byte .* with no fence.proxy.async between",
    "stored_and_fenced_after_meeting": "race: a TMA store reads byte .* with no fence.proxy.async between",
    "stored_unordered": "race: a TMA store reads byte .* with no barrier between|uninitialised: a TMA store reads",
    "stored_and_overwritten": "race: a store writes byte 0 .* while wgmma or a TMA store reads it",
    "stored_and_left": "unfinished copies: the thread returns with 1 TMA stores",
    "stored_and_not_committed": "unfinished copies: the thread returns with 1 TMA stores",
    "stored_and_one_group_left": "unfinished copies: the thread returns with 1 TMA stores",
    "stored_by_two": r"race: a TMA store writes global memory that thread \d+ of the launch wrote too",
    "stored_uninitialised": "uninitialised: a TMA store reads byte 0 of shared memory, which nobody wrote",
    "stored_to_what_is_read_only": "out of bounds: a TMA store writes global memory that no argument covers",
}

WRONG_THREADS = {
    "arrives_and_reads": "race: a load reads byte 0 .* written by thread 32 of warp 1 with no barrier" + UNSEEN,
    "writes_after_arriving": "race: a load reads byte 0 .* written by thread 0 of warp 0 with no barrier" + UNSEEN,
    "for_different_numbers": r"named barrier: barrier 1 for \d+ threads while others are there for \d+",
    "for_half_a_warp": "named barrier: bar.sync for 48 threads; whole warps of the block are allowed",
    "for_more_than_the_block": "named barrier: bar.sync for 256 threads",
    "barrier_16": "named barrier: bar.sync 16; 0 to 15 are allowed",
    "lanes_at_two_barriers": "divergence: the lanes of a warp are at different barriers at bar.sync",
    "comes_twice": "named barrier: warp . comes to barrier 1 a second time before it is complete",
    "nobody_else_comes": "deadlock: 32 threads wait at bar.sync .* barrier 4 has 32 of 64 threads, 96 have returned",
    "both_kinds_of_barrier_0": "named barrier: .* which is the same",
    "registers_not_given_enough": "deadlock: 128 threads wait at setmaxnreg.inc .* needs 13312 registers .* has 12288",
    "registers_given_upwards": "registers: setmaxnreg.dec from 24 to 32",
    "registers_taken_downwards": "registers: setmaxnreg.inc from 128 to 120",
    "registers_off_a_multiple_of_8": "registers: setmaxnreg.dec to 28; multiples of 8 from 24 to 256 are allowed",
    "registers_too_few": "registers: setmaxnreg.dec to 16",
    "registers_by_one_warp": "early exit: |deadlock: 32 threads wait at setmaxnreg.dec",
    "matrices_stored_off_16_bytes": "misaligned: stmatrix.x4 of 16 bytes at byte",
    "matrices_stored_and_read": "race: a load reads .* written by warp . with no barrier between",
    "matrices_stored_to_one_row": "race: stmatrix.x2 writes .* written by warp . with no barrier between",
}

WRONG_PRODUCTS = {
    "not_fenced": "unfenced: a group of wgmma that does not begin with wgmma.fence",
    "second_group_not_fenced": "unfenced: a group of wgmma that does not begin with wgmma.fence",
    "accumulators_written_after_the_fence": "unfenced: accumulators were written after wgmma.fence",
    "fragment_written_after_the_fence": "unfenced: registers of a were written after wgmma.fence",
    "operands_unfenced": "race: wgmma reads byte .* written by thread .* with no fence.proxy.async between",
    "operands_fenced_by_one": "race: wgmma reads byte .* written by thread .* with no fence.proxy.async between",
    "operands_unordered": "race: wgmma reads byte .* written by thread .* with no barrier between",
    "operands_uninitialised": "uninitialised: wgmma reads byte 15360 of shared memory, which nobody wrote",
    "operand_loaded_and_not_awaited_by_all": "race: wgmma reads byte 0 .*(is in flight|written by TMA with no wait)",
    "operand_stored_to": "race: a store writes byte 8192 .* while wgmma or a TMA store reads it",
    "operand_loaded_over": "race: a TMA load writes byte 0 .* while wgmma or a TMA store reads it",
    "operand_stored_to_by_one_warp": "race: a store writes byte 8192 .* read by wgmma of warpgroup 0 with no barrier",
    "accumulators_changed": r"in flight: accumulators of wgmma \(\S*:\d+\) were changed before the wait",
    "accumulators_taken_twice": "in flight: wgmma into registers that another is still to fill",
    "fragment_changed": "in flight: registers of a were changed before the wait for the wgmma that reads them",
    "product_left": "unfinished products: the thread returns with 1 accumulators of wgmma not waited for",
    "product_not_committed": "unfinished products: the thread returns with 1 accumulators",
    "wait_names_other_accumulators": "unfinished products: the thread returns with 1 accumulators",
    "rows_off_1024_bytes": r"descriptor: groups of 8 rows that do not start at multiples of 1024 bytes \(8320\)",
    "stride_off_1024_bytes": r"descriptor: a stride that is no multiple of 1024 bytes \(512\)",
    "another_swizzle": r"descriptor: another layout than the swizzle of 128 bytes \(2\)",
    "a_base_offset": "descriptor: bits outside of its fields, or a base offset",
    "depth_beyond_the_row": "descriptor: a depth that goes on after its row of 128 bytes",
    "operand_beyond_shared": "out of bounds: wgmma at byte 16528 of 16448 bytes of shared memory",
    "leading_off_1024_bytes": r"descriptor: a leading offset that is no multiple of 1024 bytes \(128\)",
    "columns_beyond_the_row": "descriptor: columns that go on after their row of 128 bytes",
    "threads_differ": "divergence: the threads of a warpgroup bring different operands to wgmma",
    "one_warp_commits_alone": "divergence: at wgmma|deadlock: ",
    "one_warp_returns": "early exit: ",
    "no_whole_warpgroup": "divergence: wgmma.fence by a thread of no whole warpgroup",
}

THREADS = {"no_whole_warpgroup": 64} | dict.fromkeys(
    ["registers_not_given_enough", "registers_taken_downwards", "registers_given_upwards"], 256
)
WRONG = WRONG_MBARRIERS | WRONG_BOXES | WRONG_THREADS | WRONG_PRODUCTS


@pytest.mark.parametrize("kernel", WRONG)
def test_what_is_wrong_is_reported_in_every_order(kernel: str) -> None:
    for seed in SEEDS:
        with pytest.raises(RuntimeError, match=f"^(?:{WRONG[kernel]})"):
            run(kernel, seed, THREADS.get(kernel, 128))


@pytest.mark.parametrize("kernel", PASSES)
def test_what_is_right_passes_in_every_order(kernel: str) -> None:
    for seed in SEEDS:
        run(kernel, seed, PASSES[kernel])


def test_an_mbarrier_tells_what_every_thread_wrote() -> None:
    expected = 100 + (4 * (31 - torch.arange(128) // 4))[:, None] + torch.arange(4)
    for seed in SEEDS:
        assert torch.equal(run("told_by_every_thread", seed)[:128], expected.int())


@pytest.mark.parametrize("kernel", ["handed_over_in_step", "handed_over_without_waiting"])
def test_a_named_barrier_tells_what_was_written_before_it(kernel: str) -> None:
    expected = 100 + (4 * (torch.arange(64) % 16))[:, None] + torch.arange(4)
    for seed in SEEDS:
        assert torch.equal(run(kernel, seed)[64:128], expected.int())


def test_products_in_a_chain_add_up_and_land_at_the_wait() -> None:
    for seed in SEEDS:
        assert run("products_in_a_chain", seed)[:128].view(torch.float32).eq(1 + 3 * 16).all()
        assert run("landed_after_the_fence", seed)[:128].view(torch.float32).eq(3 * 16).all()


def test_a_wait_that_leaves_a_group_leaves_its_accumulators_undefined() -> None:
    for seed in SEEDS:
        seen = run("only_the_older_group_lands", seed)[:128].view(torch.float32)
        assert seen[:, :2].eq(16).all()
        assert seen[:, 2:].isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"data": 8}, "data must be aligned to 16 bytes"),
        ({"data": 0}, "data must be aligned to 16 bytes"),
        ({"sizes": [64, 0, 1, 1]}, "sizes must be 1 to 2^32"),
        ({"sizes": [64, 2**32 + 1, 1, 1]}, "sizes must be 1 to 2^32"),
        ({"strides": [128, 8, 128]}, "strides must be multiples of 16 bytes below 2^40"),
        ({"strides": [128, 128, 2**40]}, "strides must be multiples of 16 bytes below 2^40"),
        ({"box": [64, 257, 1, 1]}, "sizes must be 1 to 256"),
        ({"box": [64, 0, 1, 1]}, "sizes must be 1 to 256"),
        ({"box": [32, 8, 1, 1]}, "rows must be 128 bytes"),
    ],
    ids=str,
)
def test_a_map_is_refused_as_the_driver_would(change: dict[str, object], message: str) -> None:
    given = {"data": 4096, "sizes": [64, 64, 1, 1], "strides": [128, 8192, 8192], "box": [64, 64, 1, 1]}
    said = kernels().refusal(*(given | change).values())
    assert message in said
    assert bool(message) == bool(said)

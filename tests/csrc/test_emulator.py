"""The emulator itself: what it must let pass, what it must report, and instructions as the PTX manual has them."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.simulation import builder
from support.tree import ROOT, load

pytestmark = pytest.mark.slow

THREADS = 64


@functools.cache
def kernels() -> Any:
    """The module of tests/csrc/emulator_kernels.cpp."""
    source = ROOT / "tests" / "csrc" / "emulator_kernels.cpp"
    return load("emulator_kernels", builder().build_kernels(ROOT / "build" / "sim", source))


def run(kernel: str, given: NDArray[Any] | None = None, seed: int = 0, threads: int = THREADS) -> NDArray[np.uint32]:
    """What each thread stored, [threads, 4] words; 77 where it stored nothing."""
    source = torch.zeros(1024, dtype=torch.uint8)
    if given is not None:
        source[: given.nbytes] = torch.from_numpy(given.reshape(-1).view(np.uint8).copy())
    out = torch.full((256,), 77, dtype=torch.int32)
    kernels().run(kernel, source.data_ptr(), out.data_ptr(), seed, threads)
    return out.numpy().view(np.uint32).reshape(THREADS, 4)


WRONG = {
    "ordered_by_nothing": "race: a load reads .* with no barrier between|uninitialised: a load reads",
    "ordered_by_a_shuffle": "race: a load reads .* written by thread .* with no barrier between",
    "other_warp_ordered_by_the_warp": "race: a load reads .* with no barrier between|uninitialised: a load reads",
    "written_by_two": "race: a store writes .* written by thread .* with no barrier between",
    "written_after_a_read": "race: a store writes .* read by .* with no barrier between",
    "read_before_written": "uninitialised: a load reads byte 0 of shared memory, which nobody wrote",
    "copied_and_read_too_early": "race: a load reads .* while a cp.async of thread .* is in flight",
    "copied_and_overwritten": "race: a store writes .* while a cp.async of thread .* is in flight",
    "copied_and_read_by_others": "race: a load reads .* (is in flight|with no barrier between)",
    "copied_and_left": "unfinished copies: the thread returns with 1 cp.async not waited for",
    "one_returns": "early exit: ",
    "two_barriers": r"divergence: at __syncthreads while others wait at __syncthreads \(emulator_kernels.cpp:\d+\)",
    "each_waits_for_the_other": "deadlock: .*threads wait at __syncthreads.*0 have returned",
    "beyond_shared": "out of bounds: a store at byte 4096 of 4096 bytes of shared memory",
    "between_words": "misaligned: a store of 4 bytes at byte 2 of shared memory",
    "beyond_global": "out of bounds: a store writes global memory that no argument covers",
    "off_16_bytes": "misaligned: a store of 16 bytes at a global address that is 8 bytes off",
    "into_what_is_read_only": "out of bounds: a store writes global memory that no argument covers",
    "all_to_one_place": r"race: a store writes global memory that thread \d+ of the launch wrote too",
}


@pytest.mark.parametrize("kernel", WRONG)
def test_what_is_wrong_is_reported_in_every_order(kernel: str) -> None:
    for seed in range(5):
        with pytest.raises(RuntimeError, match=f"^(?:{WRONG[kernel]})"):
            run(kernel, seed=seed)


def test_a_report_names_block_thread_and_line() -> None:
    with pytest.raises(RuntimeError, match=r"\[block 0, thread \d+, emulator_kernels.cpp:\d+\]$"):
        run("between_words")


def test_what_is_ordered_passes_in_every_order() -> None:
    own = 100 + np.arange(THREADS)[:, None] // 4 * 4 + np.arange(4)
    others = 100 + (np.arange(THREADS)[:, None] ^ 32) // 4 * 4 + np.arange(4)
    for seed in range(5):
        assert (run("ordered_by_the_warp", seed=seed) == own).all()
        assert (run("ordered_by_the_block", seed=seed) == own).all()
        assert (run("other_warp_ordered_by_the_block", seed=seed) == others).all()


def test_a_copy_arrives_and_the_rest_of_its_16_bytes_is_zero() -> None:
    words = np.arange(256, dtype=np.uint32).reshape(THREADS, 4)
    expected = words.copy()
    expected[:, 2:] = 0
    assert (run("copied_and_awaited", words) == expected).all()


def test_only_whole_warps_are_launched() -> None:
    with pytest.raises(RuntimeError, match="launch: 48 threads a block; whole warps up to 1024 are allowed"):
        run("matrices", threads=48)


@pytest.mark.parametrize(
    ("kernel", "count"), [("matrices", 4), ("matrices_transposed", 4), ("two_matrices_transposed", 2)]
)
def test_ldmatrix_gives_each_lane_what_the_manual_says(kernel: str, count: int) -> None:
    """PTX ISA, "ldmatrix": lane l holds of each matrix row l / 4, elements 2 (l % 4) and the next."""
    stored = np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)
    found = run(kernel, stored)[:32].copy().view(np.uint16).reshape(32, 4, 2)
    seen = stored if kernel == "matrices" else stored.transpose(0, 2, 1)
    expected = seen.reshape(4, 32, 2).transpose(1, 0, 2)  # 8 rows of 4 pairs are the 32 lanes
    assert (found[:, :count] == expected[:, :count]).all()


@pytest.mark.parametrize("kind", ["half", "bfloat16"])
def test_mma_is_the_product_of_what_its_fragments_hold(kind: str) -> None:
    """PTX ISA, "mma.m16n8k16" for .f16 and .bf16: each element of a, b and c in the lane that the manual names."""
    dtype = {"half": torch.float16, "bfloat16": torch.bfloat16}[kind]
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-8, 9, shape, generator=generator).to(dtype) for shape in ((16, 16), (16, 8)))
    fragments = torch.zeros(2, 32, 8, dtype=dtype)
    for lane in range(32):
        group, within = lane // 4, lane % 4
        for i in range(8):
            row = group if i < 2 or 4 <= i < 6 else group + 8
            fragments[0, lane, i] = a[row, 2 * within + i % 2 + (8 if i >= 4 else 0)]
        for i in range(4):
            fragments[1, lane, i] = b[2 * within + i % 2 + (8 if i >= 2 else 0), group]
    found = run(f"multiply_{kind}", fragments.view(torch.int16).numpy())[:32].copy().view(np.float32)
    c = a.float() @ b.float() + 1
    for lane in range(32):
        for i in range(4):
            assert found[lane, i] == c[lane // 4 + (8 if i >= 2 else 0), 2 * (lane % 4) + i % 2]


def test_the_16_bit_formats_are_torchs_in_every_bit() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    for kind, dtype in (("half", torch.float16), ("bfloat16", torch.bfloat16)):
        exact = torch.from_numpy(bits.view(np.int16)).view(dtype).float().numpy()
        np.testing.assert_array_equal(getattr(kernels(), f"{kind}_to_float")(bits), exact)
        # Every value, the middle between each two, and the float on either side of it: all that rounding could miss.
        finite = np.unique(exact[np.isfinite(exact)].astype(np.float64))
        ties = ((finite[:-1] + finite[1:]) / 2).astype(np.float32)
        beside = [np.nextafter(ties, np.float32(to)) for to in (-np.inf, np.inf)]
        ends = np.array([np.inf, -np.inf, 65519, 65520, 1e30], dtype=np.float32)
        wide = np.concatenate([finite.astype(np.float32), ties, *beside, ends])
        packed = getattr(kernels(), f"pack_{kind}")(wide, -wide)
        low, high = ((packed >> shift & 0xFFFF).astype(np.uint16).view(np.int16) for shift in (0, 16))
        for found, values in ((low, wide), (high, -wide)):
            expected = torch.from_numpy(values).to(dtype)
            assert torch.equal(torch.from_numpy(found.copy()).view(dtype), expected)

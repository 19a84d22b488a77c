"""Each of a list of bugs is planted in the kernel, and caught by what should catch it."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import mutants_sm80
import mutants_sm90
from simulation import FEW, MANY, ROOT, builder, emulator, errors, load, simulate, tensors

# By architecture: the bugs; the head dim; queries and keys. On sm_80 head dim 40 is padded to 48 in one product and
# exact in the other, with an odd number of tiles of 8; on sm_90a 80 is two panels, the second not full.
SHARED = {name: each for name, each in mutants_sm80.MUTANTS.items() if each.file == mutants_sm80.SOFTMAX}
KERNELS = {
    80: (mutants_sm80.MUTANTS, 40, ((70, 77), (50, 128), (130, 129))),
    90: (mutants_sm90.MUTANTS | SHARED, 80, ((70, 77), (200, 129), (130, 530))),
}
PLANTED = [(arch, name) for arch, (bugs, *_) in KERNELS.items() for name in bugs]


@functools.cache
def modules(arch: int) -> dict[str, Path]:
    """The emulator with each bug of a kernel in it, built together."""
    bugs, D, _ = KERNELS[arch]
    changes = {f"{name}_sm{arch}": (each.file, each.correct, each.wrong) for name, each in bugs.items()}
    built: dict[str, Path] = builder().build_mutants(ROOT / "build" / "sim", changes, D)
    return built


def verdict(module: Any, arch: int) -> str:
    """What is wrong with the kernel: the first word of what the emulator says, "numbers", or "nothing"."""
    _, D, shapes = KERNELS[arch]
    for queries, keys in shapes:
        q, k, v = tensors(queries, keys, D, torch.bfloat16, B=1)
        for multiprocessors in (FEW, MANY):
            try:
                out, _ = simulate(q, k, v, module=module, arch=arch, multiprocessors=multiprocessors)
            except RuntimeError as fault:
                print(fault)
                return str(fault).split(":")[0]
            ours, theirs = errors(out, q, k, v)
            if not ours <= 2 * theirs:
                print(f"relative L2 {ours:.2e}, torch's own {theirs:.2e}")
                return "numbers"
    return "nothing"


@pytest.mark.parametrize("arch", KERNELS)
def test_nothing_is_wrong_with_the_kernel_as_it_is(arch: int) -> None:
    assert verdict(emulator(), arch) == "nothing"


@pytest.mark.parametrize(("arch", "name"), PLANTED)
def test_a_planted_bug_is_caught(arch: int, name: str) -> None:
    module = load(f"{name}_{arch}._sim", modules(arch)[f"{name}_sm{arch}"])
    assert verdict(module, arch) == KERNELS[arch][0][name].caught_by


def test_the_documentation_lists_every_bug_and_what_caught_it() -> None:
    *_, older, newer = (ROOT / "docs" / "attention.md").read_text().split("\nIn the kernel for ")
    for section, (planted, *_) in zip((older, newer), KERNELS.values(), strict=True):
        rows = re.findall(r"^\| (.*) \| (.*) \|$", section, re.MULTILINE)[2:]  # after the heads
        assert rows == [(each.bug, each.caught_by) for each in planted.values()]

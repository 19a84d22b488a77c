"""Each of a list of bugs is planted in the kernel, and caught by what should catch it."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mutants import MUTANTS
from simulation import FEW, MANY, ROOT, builder, emulator, errors, load, simulate, tensors

D = 40  # padded to 48 in one product and exact in the other, with an odd number of tiles of 8
SHAPES = ((70, 77), (50, 128), (130, 129))


@functools.cache
def modules() -> dict[str, Path]:
    """The emulator with each bug in it, built together."""
    changes = {name: (each.file, each.correct, each.wrong) for name, each in MUTANTS.items()}
    built: dict[str, Path] = builder().build_mutants(ROOT / "build" / "sim", changes, D)
    return built


def verdict(module: Any) -> str:
    """What is wrong with the kernel: the first word of what the emulator says, "numbers", or "nothing"."""
    for queries, keys in SHAPES:
        q, k, v = tensors(queries, keys, D, torch.bfloat16, B=1)
        for multiprocessors in (FEW, MANY):
            try:
                out, _ = simulate(q, k, v, module=module, multiprocessors=multiprocessors)
            except RuntimeError as fault:
                print(fault)
                return str(fault).split(":")[0]
            ours, theirs = errors(out, q, k, v)
            if not ours <= 2 * theirs:
                print(f"relative L2 {ours:.2e}, torch's own {theirs:.2e}")
                return "numbers"
    return "nothing"


def test_nothing_is_wrong_with_the_kernel_as_it_is() -> None:
    assert verdict(emulator()) == "nothing"


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_caught(name: str) -> None:
    assert verdict(load(f"{name}._sim", modules()[name])) == MUTANTS[name].caught_by


def test_the_documentation_lists_every_bug_and_what_caught_it() -> None:
    page = (ROOT / "docs" / "attention.md").read_text()
    rows = set(re.findall(r"^\| (.*) \| (.*) \|$", page, re.MULTILINE))
    assert not [each.bug for each in MUTANTS.values() if (each.bug, each.caught_by) not in rows]

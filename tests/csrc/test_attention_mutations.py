"""Each of a list of bugs is planted in a kernel, and caught by what should catch it."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from support import mutants_designs, mutants_sm80, mutants_sm90
from support.mutants_sm80 import Mutant
from support.simulation import FEW, MANY, builder, emulator, errors, rising, simulate, tensors
from support.tree import ROOT, load

pytestmark = pytest.mark.slow

SHARED = {name: each for name, each in mutants_sm80.MUTANTS.items() if each.file == mutants_sm80.SOFTMAX}


class Patients(NamedTuple):
    """Where bugs are planted."""

    arch: int
    mutants: dict[str, Mutant]
    head_dim: int
    shapes: tuple[tuple[int, int], ...]  # queries and keys


# On sm_80 head dim 40 is padded to 48 in one product and exact in the other, with an odd number of tiles of 8; on
# sm_90a 80 is two panels, the second not full.
KERNELS = {
    "sm80": Patients(80, mutants_sm80.MUTANTS, 40, ((70, 77), (50, 128), (130, 129))),
    "sm90": Patients(90, mutants_sm90.MUTANTS | SHARED, 80, ((70, 77), (200, 129), (130, 530))),
    "designs": Patients(90, mutants_designs.MUTANTS, 40, ((300, 77), (130, 400))),
}
PLANTED = [(kernel, name) for kernel, patients in KERNELS.items() for name in patients.mutants]


@functools.cache
def modules(kernel: str) -> dict[str, Path]:
    """The emulator with each bug of a kernel in it, built together."""
    planted = {
        f"{name}_{kernel}": builder().Planted(each.file, each.correct, each.wrong, each.design)
        for name, each in KERNELS[kernel].mutants.items()
    }
    built: dict[str, Path] = builder().build_mutants(ROOT / "build" / "sim", planted, KERNELS[kernel].head_dim)
    return built


def names(head_dim: int) -> dict[str, str]:
    """What Python calls each design of a head dim, by its type in designs.h."""
    types = builder().designs("sm90", head_dim, "bfloat16", sweep=True)
    return dict(zip(types, emulator().designs(head_dim), strict=True))


def verdict(module: Any, patients: Patients, design: str = "Exact") -> str:
    """What is wrong with a kernel: how the emulator's message begins, "numbers", or "nothing"."""
    name = "" if design == "Exact" else names(patients.head_dim)[design]
    for queries, keys in patients.shapes:
        if design == "Runs" and keys > 80:
            continue
        q, k, v = tensors(queries, keys, patients.head_dim, torch.bfloat16, B=1)
        if patients.mutants is mutants_designs.MUTANTS:
            q, k = rising(q, k)
        for multiprocessors in (FEW, MANY):
            try:
                out, _ = simulate(
                    q, k, v, module=module, arch=patients.arch, design=name, multiprocessors=multiprocessors
                )
            except RuntimeError as fault:
                print(fault)
                return str(fault).split(":")[0]
            ours, theirs = errors(out, q, k, v)
            if not ours <= 2 * theirs:
                print(f"relative L2 {ours:.2e}, torch's own {theirs:.2e}")
                return "numbers"
    return "nothing"


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_wrong_with_the_kernel_as_it_is(kernel: str) -> None:
    patients = KERNELS[kernel]
    for design in {each.design for each in patients.mutants.values()}:
        assert verdict(emulator(), patients, design) == "nothing"


@pytest.mark.parametrize(("kernel", "name"), PLANTED)
def test_a_planted_bug_is_caught(kernel: str, name: str) -> None:
    module = load(f"{name}_{kernel}._sim", modules(kernel)[f"{name}_{kernel}"])
    mutant = KERNELS[kernel].mutants[name]
    assert verdict(module, KERNELS[kernel], mutant.design) == mutant.caught_by

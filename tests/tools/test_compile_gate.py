"""The compile gate fails on what it is there for: planted kernels, compiled in a process of their own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.tree import ROOT

pytestmark = pytest.mark.slow

GATE = ROOT / "tools" / "compile_gate.py"

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed here", allow_module_level=True)

PLANTED = """
import torch
import triton
import triton.language as tl

from triton.language.extra.cuda import gdc_wait

from fewstep_kernels.fused.launch import Launch
from fewstep_kernels.fused.variants import variant


@triton.jit
def clean_kernel(out_ptr, x_ptr, scale_ptr, n, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    at = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)) * STRIDE
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n) * tl.load(scale_ptr), mask=at < n)


@triton.jit
def stack_kernel(out_ptr, x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.sin(tl.load(x_ptr + at, mask=at < n)), mask=at < n)


@triton.jit
def spill_kernel(out_ptr, x_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, x / tl.sum(x) + tl.max(x))


@triton.jit
def dependent_kernel(out_ptr, x_ptr, scale_ptr, BEFORE: tl.constexpr, WAIT: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    scale = tl.load(scale_ptr)
    if WAIT and not BEFORE:
        gdc_wait()
    x = tl.load(x_ptr + at)
    if WAIT and BEFORE:
        gdc_wait()
    tl.store(out_ptr + at, x * scale)


def planted(name, kernel, constants, num_warps=4, awaits=(), **numbers):
    x = torch.empty(2**20, device="meta")
    arguments = {{"out_ptr": x, "x_ptr": x, **numbers}}
    return variant(name, Launch(kernel, (1,), arguments, constants, num_warps, awaits), True)


def variants():
    scale = torch.empty(1, device="meta")
    block = {{"BLOCK": 1024}}
    return {variants}
"""
KERNELS = {
    "clean": 'planted("clean", clean_kernel, {"STRIDE": 1, **block}, scale_ptr=scale, n=2**20)',
    "ragged": 'planted("ragged", clean_kernel, {"STRIDE": 1, **block}, scale_ptr=scale, n=2**20 - 1)',
    "strided": 'planted("strided", clean_kernel, {"STRIDE": 3, **block}, scale_ptr=scale, n=2**20)',
    "stack": 'planted("stack", stack_kernel, block, n=2**20)',
    **{
        name: f'planted("{name}", dependent_kernel, {{"BEFORE": {before}, "WAIT": {wait}, **block}}, scale_ptr=scale,'
        ' awaits=("x_ptr",))'
        for name, before, wait in (("waits", False, True), ("reads early", True, True), ("never waits", False, False))
    },
    "spill": 'planted("spill", spill_kernel, {"BLOCK": 2**16}, num_warps=4)',
}


def gate(folder: Path, *kernels: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, rows and faults of the gate, in an environment where kernels are interpreted otherwise."""
    source = folder / "planted.py"
    source.write_text(PLANTED.format(variants=f"[{', '.join(KERNELS[kernel] for kernel in kernels)}]"))
    command = [sys.executable, str(GATE), "--variants", str(source), "--cache", str(folder / "cache"), "--arch", "90"]
    env = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run([*command, "--json"], capture_output=True, text=True, env=env)
    assert run.stdout, run.stderr
    return run.returncode, json.loads(run.stdout), run.stderr


WAITING = ("waits", "reads early", "never waits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the rows of all planted kernels are kept."""
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def gated(folder: Path) -> tuple[int, list[dict[str, Any]], str]:
    """What the gate says of all of them, compiled together."""
    return gate(folder, "clean", "stack", "spill", "strided", "ragged", *WAITING)


def test_a_clean_kernel_passes_and_its_row_is_read_from_the_cache(
    folder: Path, gated: tuple[int, list[dict[str, Any]], str]
) -> None:
    (row,) = (row for row in gated[1] if row["name"] == "clean")
    print(row)
    assert (row["stack"], row["local"], row["shared"]) == (0, 0, 0)
    assert (row["load"], row["store"], row["widths"]) == (128, 128, {"x_ptr": 128, "out_ptr": 128})
    assert 0 < row["registers"] < row["instructions"]
    (kept,) = (path for path in (folder / "cache").glob("*.json") if json.loads(path.read_text()) == row)
    kept.write_text(json.dumps(row | {"registers": 999}))
    status, (read,), report = gate(folder, "clean")
    assert (status, read["registers"]) == (0, 999), "the row was compiled again"
    assert "1 rows, 0 at fault" in report


def test_every_planted_fault_fails_and_is_named(gated: tuple[int, list[dict[str, Any]], str]) -> None:
    status, rows, report = gated
    print(report)
    assert status == 1
    found = {row["name"]: row for row in rows}
    assert found["stack"]["stack"] > 0
    assert found["spill"]["local"] > 0
    assert found["strided"]["narrow"] == found["ragged"]["narrow"] == ["out_ptr", "x_ptr"]
    lines = report.splitlines()
    assert "sm_90 stack_kernel, stack: a stack of" in lines[0]
    assert "accesses to local memory" in lines[1]
    assert lines[2] == "sm_90 clean_kernel, strided: out_ptr by 32 bits, x_ptr by 32 bits"
    assert [found[name]["dependency"] for name in WAITING] == [["griddepcontrol.wait"]] * 2 + [[]]
    assert [found[name]["early"] for name in WAITING] == [[], ["ld x_ptr"], ["ld x_ptr", "st out_ptr"]]
    assert lines[4] == "sm_90 dependent_kernel, reads early: ld x_ptr before the wait"
    assert lines[-1] == "compile gate: 8 rows, 6 at fault"


def test_the_dependent_form_of_the_norm_is_for_hopper_alone() -> None:
    """The first of its launches lets the second begin; the second waits before it reads the moments."""
    command = [sys.executable, str(GATE), "--json", "--arch", "80", "--arch", "90"]
    name = "group_norm_silu 63x21 bfloat16 channels-last, all of it, dependent"
    run = subprocess.run([*command, "--only", name], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert {(row["arch"], row["kernel"], *row["dependency"]) for row in json.loads(run.stdout)} == {
        (90, "_moments_kernel", "griddepcontrol.launch_dependents"),
        (90, "_normalise_kernel", "griddepcontrol.wait"),
    }

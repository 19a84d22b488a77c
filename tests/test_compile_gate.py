"""The compile gate fails on what it is there for: planted kernels, compiled in a process of their own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
GATE = ROOT / "tools" / "compile_gate.py"

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed here", allow_module_level=True)

PLANTED = """
import torch
import triton
import triton.language as tl

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


def planted(name, kernel, constants, num_warps=4, **numbers):
    x = torch.empty(2**20, device="meta")
    arguments = {{"out_ptr": x, "x_ptr": x, **numbers}}
    return variant(name, Launch(kernel, (1,), arguments, constants, num_warps), True)


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


def test_a_clean_kernel_passes_and_its_row_is_read_from_the_cache(tmp_path: Path) -> None:
    status, (row,), report = gate(tmp_path, "clean")
    print(row)
    assert (status, row["stack"], row["local"], row["shared"]) == (0, 0, 0, 0)
    assert (row["load"], row["store"], row["widths"]) == (128, 128, {"x_ptr": 128, "out_ptr": 128})
    assert 0 < row["registers"] < row["instructions"]
    assert "1 rows, 0 at fault" in report
    (kept,) = (tmp_path / "cache").glob("*.json")
    kept.write_text(json.dumps(row | {"stack": 8}))
    status, _, report = gate(tmp_path, "clean")
    assert status == 1, "the row was compiled again"


def test_every_planted_fault_fails_and_is_named(tmp_path: Path) -> None:
    status, rows, report = gate(tmp_path, "clean", "stack", "spill", "strided", "ragged")
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
    assert lines[-1] == "compile gate: 5 rows, 4 at fault"

"""The gate on what nvcc makes of the attention variants fails on what it is there for."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.simulation import cuda_builder
from support.tree import ROOT, load

pytestmark = pytest.mark.slow

GATE = ROOT / "tools" / "cuda_gate.py"


def gate(cache: Path, *options: str, only: str = "sm80 d32 half") -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, rows and faults, for one variant."""
    cuda_builder()
    command = [sys.executable, str(GATE), "--only", only, "--cache", str(cache), "--json", *options]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.stdout, run.stderr
    return run.returncode, json.loads(run.stdout), run.stderr


def test_a_variant_passes_and_its_rows_are_read_from_the_cache(tmp_path: Path) -> None:
    status, rows, report = gate(tmp_path)
    print(report)
    assert status == 0
    assert "cuda gate: 4 rows, 0 at fault" in report
    assert all(row["spills"] == row["stack"] == 0 < row["registers"] for row in rows)
    # For each 16 queries and 16 keys: 2 tiles of keys by 2 steps of depth, and 4 tiles of columns.
    assert [row["mma"] for row in rows] == [(4 + 4) * 64 // 16, 2 * (4 + 4) * 64 // 16, 8 * 128 // 16, 8 * 80 // 16]
    (kept,) = tmp_path.glob("*.json")
    kept.write_text(json.dumps([row | {"spills": 4} for row in rows]))
    status, _, report = gate(tmp_path)
    assert status == 1, "the variant was compiled again"


def planted(folder: Path, file: str, correct: str, wrong: str) -> str:
    """The option that names a copy of the sources with one change."""
    copy = folder / "csrc"
    shutil.copytree(ROOT / "csrc", copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / file).read_text()
    assert text.count(correct) == 1
    (copy / file).write_text(text.replace(correct, wrong))
    return f"--csrc={copy}"


def test_a_planted_spill_fails_and_is_named(tmp_path: Path) -> None:
    twelve = planted(tmp_path, "simt/device.h", "__launch_bounds__(threads, blocks)", "__launch_bounds__(threads, 12)")
    status, rows, report = gate(tmp_path, twelve)
    print(report)
    assert status == 1
    assert max(row["spills"] for row in rows) > 0
    assert re.search(r"^sm_80 d32 half, 2x16 rows a warp, 64 keys a tile, 2 stages: \d+ bytes of spills", report, re.M)


def test_the_variants_of_sm_90a_multiply_by_wgmma_what_the_head_dim_needs() -> None:
    status, rows, report = gate(ROOT / "build" / "cuda_gate", only="sm90 d40 half")
    assert status == 0
    assert "cuda gate: 6 rows, 0 at fault" in report
    # Of depth 48, 3 products for the first tile of keys and 3 for all others; of the keys, a sixteenth for all but the
    # last tile and as many for that. The padded design has as many, wider ones.
    exact = [3 + 3 + 2 * 128 // 16, 3 + 3 + 2 * 128 // 16, 3 + 3 + 2 * 80 // 16]
    assert [row["mma"] for row in rows] == 2 * exact
    assert [row["start"] for row in rows] == [row["registers"] for row in rows] == 2 * [168, 128, 128]


def test_products_that_wait_for_each_other_fail(tmp_path: Path) -> None:
    turn = "    Turns<S>::pass(consumer);\n"
    touched = planted(tmp_path, "attention/sm90/consume.h", turn, "    s[0][0] += 1.0f;\n" + turn)
    status, _, report = gate(tmp_path, touched, only="sm90 d40 half")
    assert status == 1
    assert "sm_90a d40 half, 2 consumers, 128 keys a tile, 4 stages: wgmma is serialized" in report


def test_a_block_too_large_for_some_devices_fails_and_is_named(tmp_path: Path) -> None:
    roomy = planted(tmp_path, "attention/sm80/shape.h", "kMaxShared = 101376;", "kMaxShared = 166912;")
    status, _, report = gate(tmp_path, roomy, only="sm80 d160 half")
    assert status == 1
    assert "107520 bytes of shared memory, over 101376" in report


def test_each_fault_is_named() -> None:
    module = load("cuda_gate", GATE)
    row = module.Row("d40 half", "kernel", "80", registers=128, stack=0, spills=0, shared=101376, mma=44)
    assert row.faults == []
    assert replace(row, spills=8).faults == ["8 bytes of spills"]
    assert replace(row, stack=16).faults == ["a stack of 16 bytes"]
    assert replace(row, shared=101392).faults == ["101392 bytes of shared memory, over 101376"]
    assert replace(row, mma=0).faults == ["no HMMA"]
    hopper = replace(row, arch="90a", shared=232448)
    assert hopper.faults == []
    assert replace(hopper, shared=232464).faults == ["232464 bytes of shared memory, over 232448"]
    assert replace(hopper, mma=0).faults == ["no HGMMA"]
    assert replace(hopper, serialized=True).faults == ["wgmma is serialized"]
    assert replace(hopper, start=128).faults == []
    assert replace(hopper, start=168).faults == ["128 registers where setmaxnreg counts on 168: it would wait for ever"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that a build needs, as a checkout has it; who changes a source puts it back."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("engine", "kernels"):
        (copy / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "csrc", copy / "csrc", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def build(checkout: Path) -> subprocess.CompletedProcess[str]:
    """The gate's build alone, of one head dim in one architecture."""
    cuda_builder()
    few = os.environ | {"FEWSTEP_CUDA_ARCHS": "90a", "FEWSTEP_HEAD_DIMS": "64", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(GATE), "--module", f"--csrc={checkout / 'csrc'}", f"--cache={checkout / 'gate'}"]
    return subprocess.run(command, env=few, capture_output=True, text=True)


PLANTED = ("bindings.cpp", "attention/attention.cu", "attention/sm90/consume.h")


def build_with(checkout: Path, file: str, change: Callable[[str], str]) -> subprocess.CompletedProcess[str]:
    """The same with a source changed, which then is as it was, and as old: what is built of it stays."""
    source = checkout / "csrc" / file
    text, times = source.read_text(), source.stat()
    source.write_text(change(text))
    done = build(checkout)
    source.write_text(text)
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    return done


@pytest.mark.long
def test_a_source_that_does_not_compile_fails_the_gate_and_the_module_loads_without_it(checkout: Path) -> None:
    """The module is built and imported; then not, with a compile error in any of three sources."""
    done = build(checkout)
    assert done.returncode == 0, done.stderr
    assert "head dims 64; bfloat16, half" in done.stderr
    assert "loads" in done.stderr
    for file in PLANTED:
        done = build_with(checkout, file, lambda text, file=file: f"#error planted in {file}\n{text}")
        assert done.returncode == 1
        assert "fewstep_kernels._C does not build" in done.stderr
        assert f"planted in {file}" in done.stderr


@pytest.mark.long
def test_a_module_that_links_but_does_not_load_fails_the_gate(checkout: Path) -> None:
    done = build_with(checkout, "driver.cu", lambda text: text.replace("int driver_version()", "int another_version()"))
    assert done.returncode == 1
    assert "was built and does not load" in done.stderr
    assert "driver_version" in done.stderr


def test_without_nvcc_it_says_so_and_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    run = subprocess.run([sys.executable, str(GATE)], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (
        0,
        "cuda gate: NOT RUN, nvcc is not installed here: fewstep_kernels._C and its kernels are not compiled\n",
    )
    assert shutil.which("nvcc") is None

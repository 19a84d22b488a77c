"""The scripts of benchmarks/, and parts of `make gpu` that pass, fail or say what they are told to."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from support.tree import ROOT

BENCHMARKS = ROOT / "benchmarks"


def load(name: str) -> ModuleType:
    """A script of benchmarks/, which its neighbours import by name."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module(name)


gpu: Any = load("gpu")
partwise: Any = load("partwise")
progress: Any = load("progress")

REPORT = """
import json, sys
path = sys.argv[sys.argv.index("--out") + 1] + ".json"
json.dump({{"checks": {{"passed": {passed}, "failed": {failed}}}, "not_run": {not_run}, "rows": []}}, open(path, "w"))
print("wrote a report from", __file__ if "__file__" in globals() else "a command")
sys.exit({code})
"""
CLEAN = "every kernel has run\n========= ERROR SUMMARY: 0 errors\n"
MEASURED = '''"""What was decided."""

from there import Ahead

EXACT_WIDTHS: bool = True  # by what

AHEAD: tuple[Ahead, ...] = (
    Ahead((8, 0), 40, (4096, 4096), (4096, 4096), "nvidia-a100/attention.json"),
    Ahead(
        arch=(9, 0),
        head_dim=256,
        queries=(1, 1),
        keys=(1, 1),
        result="nvidia-h100/attention.json",
    ),
)

AFTER = 1
'''


def part(name: str, script: str, seconds: float = 20.0) -> Any:
    return gpu.Part(f"a fake {name}", (gpu.Command(name, seconds, ("-c", script)),))


def reporting(name: str, passed: int = 1, failed: int = 0, code: int = 0, not_run: tuple[str, ...] = ()) -> Any:
    return part(name, REPORT.format(passed=passed, failed=failed, code=code, not_run=list(not_run)))


def a_run(folder: Path, dry_run: bool = False, root: Path | None = None) -> Any:
    so_far = progress.Progress(folder / "state", root or folder, "torch 1")
    return gpu.Run("a-machine", folder / "out", folder / "results", dry_run, root or folder, so_far)

"""What the scripts of this folder measure with: clocks, ceilings, the kernels put in their place, and a report."""

import argparse
import csv
import functools
import importlib
import importlib.metadata
import inspect
import itertools
import json
import math
import os
import pkgutil
import random
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import fewstep_kernels
from fewstep.bench.ceilings import cache_bytes, copy_bandwidth, matmul_rate, relative_error
from fewstep.bench.machine import describe_machine as describe
from fewstep.bench.timed import Spread, nothing, once, synchronize, timed
from fewstep.files import AtomicFiles
from fewstep.run.graphs import Capturer, CudaCapturer
from fewstep_kernels import reference
from fewstep_kernels.operands import by_arguments

RAW = "seconds"  # the column of all times of a row, which a CSV is spared
NUMBERS = re.compile(r"\[[-+.\de,\s]+\]")  # a list of numbers, which a JSON has in one line
NOT_RUN = 77  # the exit code of a script that could not run here
ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"


def captured(call: Callable[[], object], calls: int) -> torch.cuda.CUDAGraph:
    """So many calls in one CUDA graph, after three that compile and pick what a first call picks."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return graph


def in_turn(
    works: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    seconds: float = math.inf,
    before: Callable[[], object] = nothing,
) -> dict[str, list[float]]:
    """The times of each in seconds: in every round each runs once, so that what the clocks do falls on all of them.

    The order is another one in each round. `before` goes ahead of every run and is not counted. Ends early, but not
    before 7 rounds, once `seconds` are over.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    end, order, shuffled = time.perf_counter() + seconds, list(works), random.Random(0)
    for turn in range(rounds):
        if turn >= 7 and time.perf_counter() > end:
            break
        shuffled.shuffle(order)
        for name in order:
            before()
            times[name].append(once(works[name], device))
    return times


def flusher(device: torch.device) -> Callable[[], object]:
    """What leaves nothing of a tensor in the last-level cache: it writes twice as much as that holds, 128 MB at least.

    On a GPU that takes longer than the host needs to enqueue what follows, which so begins at once.
    """
    values = max(2 * cache_bytes(device), 2**27) // 4
    buffer, turn = torch.empty(values, device=device), itertools.count()
    return lambda: buffer.fill_(float(next(turn) % 1000))


def default_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def ops_with_twins() -> list[str]:
    """The names that have a definition in plain torch."""
    return [name for name in fewstep_kernels.__all__ if inspect.isfunction(getattr(reference, name, None))]


@dataclass(frozen=True)
class InPlace:
    """What runs for every op: "registered", "put in place here", which lasts as long as this, or "twin"."""

    origin: dict[str, str]
    library: torch.library.Library


@functools.cache
def put_kernels_in_place(device_type: str) -> InPlace:
    """Have every op of fewstep_kernels run its Triton kernel on that device, where there is one.

    A kernel that the library does not itself choose on this device is registered for this process: so the dry run takes
    the same path through torch.ops, with the interpreter at its end.
    """
    key = {"cuda": "CUDA", "cpu": "CPU"}[device_type]
    library = torch.library.Library("fewstep", "IMPL")
    written = _fused_functions()
    origin = {}
    for name in ops_with_twins():
        if torch._C._dispatch_has_kernel_for_dispatch_key(f"fewstep::{name}", key):
            origin[name] = "registered"
        elif name in written:
            implementation = by_arguments(written[name]) if name == "denoise_step" else written[name]
            library.impl(name, implementation, key)
            origin[name] = "put in place here"
        else:
            origin[name] = "twin"
    return InPlace(origin, library)


def _fused_functions() -> dict[str, Callable[..., Any]]:
    try:
        package = importlib.import_module("fewstep_kernels.fused")
    except ImportError:
        return {}
    found: dict[str, Callable[..., Any]] = {}
    for each in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"fewstep_kernels.fused.{each.name}")
        for name in ops_with_twins():
            function = getattr(module, name, None)
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                found[name] = function
    return found


def capturer_for(device: torch.device) -> Capturer:
    """What captures: CUDA graphs, or on a CPU the recorder of the tests, which replays the recorded calls."""
    if device.type == "cuda":
        return CudaCapturer(device)
    sys.path.append(str(TESTS))
    capturer: Capturer = importlib.import_module("support.recorder").RecorderCapturer()
    return capturer


def script_options(
    description: str,
    argv: Sequence[str] | None = None,
    flags: Mapping[str, str] | None = None,
    words: Mapping[str, str] | None = None,
    on_a_cpu: bool = False,
    **seconds: float,
) -> argparse.Namespace:
    """The options of every script here: `out` (a path without suffix) and `dry_run`; and `device`.

    `flags`, `words` and `seconds` are further options: switches and texts with their help, and times in seconds with
    their defaults. `on_a_cpu`: it measures a CPU where there is no GPU.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, help="where to write the report, without the suffix")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on a CPU, Triton's interpreter, no graph")
    for name, default in seconds.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            default=default,
            metavar="S",
            help=f"how long it may take; by default {default:g} s",
        )
    for name, text in (flags or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    for name, text in (words or {}).items():
        parser.add_argument(f"--{name}", default="", metavar=name.upper(), help=text)
    options = parser.parse_args(argv)
    options.device = torch.device("cpu") if options.dry_run else default_device()
    if options.device.type == "cpu" and not (options.dry_run or on_a_cpu):
        print("There is no NVIDIA GPU here; --dry-run walks the script on a CPU.")
        sys.exit(NOT_RUN)
    if options.dry_run:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read where a kernel is defined, which is later
    return options


@dataclass
class Report:
    """What a script found: rows of a table, and how many checks they stand on.

    Attributes:
        stem: STEM.json and STEM.csv are written; nothing where it is None.
        about: the machine, and what holds for all rows.
    """

    stem: Path | None
    about: dict[str, object]
    rows: list[dict[str, Any]] = field(default_factory=list)
    passed: int = 0
    failed: int = 0
    not_run: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # the checks that failed

    def check(self, what: str, holds: bool) -> bool:
        """Count a check, and say so if it fails."""
        self.passed += holds
        self.failed += not holds
        if not holds:
            print(f"WRONG: {what}")
            self.wrong.append(what[:300])
        return holds

    def save(self) -> None:
        """Write what there is by now, whole or not at all."""
        if self.stem is None:
            return
        data = {
            "about": self.about,
            "checks": {"passed": self.passed, "failed": self.failed},
            "not_run": self.not_run,
            "wrong": self.wrong,
            "rows": self.rows,
        }
        with AtomicFiles() as files:
            text = NUMBERS.sub(lambda found: " ".join(found[0].split()), json.dumps(data, indent=1, default=str))
            files.open(f"{self.stem}.json").write(text.encode() + b"\n")
            if self.rows:
                files.open(f"{self.stem}.csv").write(self._csv().encode())

    def _csv(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows for name in row if name != RAW))
        lines = _Lines()
        writer = csv.DictWriter(lines, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})
        return "".join(lines)

    def finish(self) -> int:
        """Save, and return the exit code."""
        self.save()
        return 1 if self.failed else 0 if self.passed else NOT_RUN


class _Lines(list[str]):
    def write(self, line: str) -> None:
        """As a file does."""
        self.append(line)


__all__ = [
    "NOT_RUN",
    "RAW",
    "ROOT",
    "TESTS",
    "InPlace",
    "Report",
    "Spread",
    "cache_bytes",
    "captured",
    "capturer_for",
    "copy_bandwidth",
    "default_device",
    "describe",
    "flusher",
    "in_turn",
    "matmul_rate",
    "nothing",
    "ops_with_twins",
    "put_kernels_in_place",
    "relative_error",
    "script_options",
    "synchronize",
    "timed",
]

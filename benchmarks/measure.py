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
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fewstep_kernels
from fewstep.bench.machine import describe_machine
from fewstep.files import AtomicFiles
from fewstep.run.graphs import Capturer, CudaCapturer
from fewstep_kernels import reference
from fewstep_kernels.operands import by_arguments

RAW = "seconds"  # the column of all times of a row, which a CSV is spared
NUMBERS = re.compile(r"\[[-+.\de,\s]+\]")  # a list of numbers, which a JSON has in one line
NOT_RUN = 77  # the exit code of a script that could not run here
ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"


@dataclass(frozen=True)
class Spread:
    """Times of the same work, in seconds."""

    median: float
    low: float  # the 10th percentile
    high: float  # the 90th
    repeats: int

    @classmethod
    def of(cls, times: Sequence[float]) -> "Spread":
        """The three quantiles of some times."""
        quantiles = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
        low, median, high = torch.quantile(torch.tensor(times, dtype=torch.float64), quantiles).tolist()
        return cls(median, low, high, len(times))

    def us(self) -> dict[str, float]:
        """As columns of a table, in microseconds."""
        return {"us": 1e6 * self.median, "us_p10": 1e6 * self.low, "us_p90": 1e6 * self.high, "repeats": self.repeats}


def nothing() -> None:
    """What is done before a timed run that needs nothing."""


def timed(
    work: Callable[[], object],
    device: torch.device,
    before: Callable[[], object] = nothing,
    seconds: float = 0.15,
    quick: bool = False,
) -> Spread:
    """The times of `work` by the device's own events, each with an idle device before it; `before` is not counted.

    Three runs warm up; then at least 7 and at most 300, as many as fit into `seconds`. `quick`, for a dry run, takes 2.
    """
    warm_ups, least, most = (0, 2, 2) if quick else (3, 7, 300)
    for _ in range(warm_ups):
        before()
        work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or (len(times) < most and time.perf_counter() < end):
        before()
        synchronize(device)
        times.append(_one(work, device))
    return Spread.of(times)


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
            times[name].append(_one(works[name], device))
    return times


def flusher(device: torch.device) -> Callable[[], object]:
    """What leaves nothing of a tensor in the last-level cache: it writes twice as much as that holds, 128 MB at least.

    On a GPU that takes longer than the host needs to enqueue what follows, which so begins at once.
    """
    values = max(2 * cache_bytes(device), 2**27) // 4
    buffer, turn = torch.empty(values, device=device), itertools.count()
    return lambda: buffer.fill_(float(next(turn) % 1000))


def cache_bytes(device: torch.device) -> int:
    """Of the last-level cache: a GPU's L2, or what Linux says of this CPU's; 32 MiB where it does not."""
    if device.type == "cuda":
        return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0))
    try:
        sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    except OSError:
        sizes = []
    units = {"K": 2**10, "M": 2**20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=2**25)


def _one(work: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    stop.record()
    stop.synchronize()
    milliseconds: float = start.elapsed_time(stop)
    return 1e-3 * milliseconds


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device, dry_run: bool) -> Spread:
    """Bytes per second of a large copy, read and written ones counted; random data, several times the cache."""
    count = 2**18 if dry_run else 2**29 if device.type == "cuda" else max(2**26, cache_bytes(device))
    source = torch.randn(count, device=device)
    target = torch.full_like(source, float("nan"))
    found = timed(lambda: target.copy_(source), device, seconds=0.3, quick=dry_run)
    if not torch.equal(target, source):
        raise RuntimeError("a copy did not copy")
    moved = 2 * source.numel() * source.element_size()
    return Spread(moved / found.median, moved / found.high, moved / found.low, found.repeats)


def matmul_rate(device: torch.device, dry_run: bool, dtype: torch.dtype = torch.bfloat16) -> Spread:
    """Operations per second of a square product on random data, in bfloat16 unless another dtype is given."""
    n = 128 if dry_run else 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    out = torch.full_like(a, float("nan"))
    found = timed(lambda: torch.mm(a, b, out=out), device, seconds=0.5, quick=dry_run)
    exact = a[:16].double() @ b.double()
    error = relative_error(out[:16], exact)
    if not error < 1e-2:
        raise RuntimeError(f"a product in {dtype} is off by {error:.1e}")
    operations = 2 * n**3
    return Spread(operations / found.median, operations / found.high, operations / found.low, found.repeats)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|, L2, in float64; nan where anything is not finite."""
    wide = exact.double()
    return float((found.double() - wide).norm() / wide.norm().clamp(min=torch.finfo(torch.float64).tiny))


def describe(device: torch.device) -> dict[str, object]:
    """The machine, its versions, and on a GPU its driver and clocks as they are found."""
    about = describe_machine(device) | {"triton": _version("triton"), "cuda": torch.version.cuda}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about |= {
            "capability": list(torch.cuda.get_device_capability(device)),
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": getattr(properties, "L2_cache_size", 0),
            "memory_bytes": properties.total_memory,
            **_nvidia_smi("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit"),
        }
    return about


def _nvidia_smi(*fields: str) -> dict[str, str]:
    """What the driver says of the GPU; nothing is set."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = found.stdout.strip().split(", ")
    return dict(zip(fields, values, strict=True)) if found.returncode == 0 and len(values) == len(fields) else {}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


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
    gpu = torch.cuda.is_available() and not options.dry_run
    if not (gpu or options.dry_run or on_a_cpu):
        print("There is no NVIDIA GPU here; --dry-run walks the script on a CPU.")
        sys.exit(NOT_RUN)
    if options.dry_run:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read where a kernel is defined, which is later
    options.device = torch.device("cuda", 0) if gpu else torch.device("cpu")
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

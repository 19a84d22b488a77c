"""Networks on a CPU, side by side: diffusers, fewstep before, fewstep's backends, and OpenVINO called by hand.

    export PYTHONPATH=engine:kernels
    python benchmarks/cpu_backends.py                    all networks, about a quarter of an hour on two quiet cores
    python benchmarks/cpu_backends.py --only cifar10     one of them, two to three minutes
    python benchmarks/cpu_backends.py --base REVISION    beside fewstep as it was then

    contender    what it is
    diffusers    its module and its DDIM scheduler, eager
    before       Engine.sample of the revision of --base, from a checkout of its own that is removed again
    torch        Engine.sample of this tree, with that backend
    openvino     the same with that one; made ready anew, in a folder of its own
    by hand      OpenVINO without fewstep: diffusers' module converted and compiled, inputs bound, `infer` in a loop

Each is there in float32 and in bfloat16, and is a process of its own with --threads threads. They take turns, call by
call, in a new order each round; one runs at a time, and the others wait. A number is the median of --repeats rounds,
with its quartiles; a ratio is the median of the ratios within the rounds, so that what else the machine does falls on
both sides. Images from the same noise come first: they may differ from the first contender's in float32 by 1e-4 of the
largest value, and in bfloat16 by 5e-2 over all values. One that differs by more, or that cannot run, has a row with the
reason and no time.

Printed and, in --out, written as cpu_backends.json and cpu_backends.csv: ms of a run, ms of one image, seconds to make
ready, the difference, and the promises that the numbers keep or miss. What a network needs in memory is compared with
what is free before a process is started. The exit code is 1 where fewstep's images differ, 77 where nothing ran.
"""

import argparse
import importlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
from cpu_process import Contender, Gone, free_gib
from cpu_promises import kept
from measure import ROOT, Report

from fewstep.bench.machine import describe_machine

DTYPES = ("float32", "bfloat16")
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
OURS = ("before", "torch", "openvino")  # whose wrong images are a failure; another's are its own affair
KINDS = ("diffusers", "before", "torch", "openvino", "by hand")


@dataclass(frozen=True)
class Subject:
    """A network, and how it is measured.

    Attributes:
        title: what it is.
        steps: calls of the network in a run.
        batches: of a run.
        kinds: of contenders.
        gib: of memory that a contender may take in float32, by kind: for the largest of them, in bfloat16 the same.
        warm, runs: of a turn, uncounted and counted; the counted ones' median is the turn's.
        together: whether both dtypes wait for their turns at once; the networks of one fill the memory if not.
    """

    title: str
    steps: int
    batches: tuple[int, ...]
    kinds: tuple[str, ...] = KINDS
    gib: tuple[float, ...] = (1, 1, 1, 2, 2)
    warm: int = 1
    runs: int = 1
    together: bool = True


SUBJECTS = {
    "digits": Subject("the digits' student for 4 steps", 4, (1, 4), KINDS[1:], warm=2, runs=5),
    "cifar10": Subject("the CIFAR-10 DDPM U-Net, 3 x 32 x 32, 36 M parameters", 1, (1, 4)),
    "terrain": Subject("terrain, a one-step model", 1, (1, 4), KINDS[1:]),
    "conditional": Subject("a U-Net of 4 levels that is told a text, 4 x 64 x 64", 1, (1,), gib=(2, 2, 2, 4, 4)),
    "sd15": Subject(
        "Stable Diffusion 1.5's U-Net for 256 x 256 pixels, 4 x 32 x 32", 1, (1,), ("diffusers", "torch", "openvino"),
        (8, 6, 13), warm=0, together=False,
    ),
}  # fmt: skip


class Side:
    """All contenders of a network that are in memory at once, and what they found."""

    def __init__(self, name: str, options: argparse.Namespace, folder: Path) -> None:
        self.name, self.subject, self.options, self.folder = name, SUBJECTS[name], options, folder
        self.rows: list[dict[str, Any]] = []
        self.reference: dict[int, np.ndarray[Any, Any]] = {}

    def measure(self, dtypes: Sequence[str], trees: Mapping[str, Path], model: str) -> list[dict[str, Any]]:
        """Rows of the contenders in some dtypes: each made ready, then turns."""
        with ExitStack() as stack:
            ready: dict[tuple[str, str], Contender] = {}
            for dtype in dtypes:
                for kind, gib in zip(self.subject.kinds, self.subject.gib, strict=False):
                    why = self.why_not(kind, gib)
                    if why:
                        self.absent(kind, dtype, why)
                        continue
                    tell(f"{self.name}: {kind} in {dtype} is made ready")
                    task = {"network": self.name, "kind": kind, "dtype": dtype, "steps": self.subject.steps}
                    task |= {"folder": model, "threads": self.options.threads}
                    contender = Contender(trees["before" if kind == "before" else "present"], task, self.folder)
                    stack.callback(contender.end)
                    try:
                        if self.agrees(contender, kind, dtype):
                            ready[kind, dtype] = contender
                    except Gone as gone:
                        contender.end()
                        self.absent(kind, dtype, str(gone))
            self.take_turns(ready)
        return self.rows

    def why_not(self, kind: str, gib: float) -> str:
        """Why a kind takes no part; "" if it does."""
        if kind == "before" and not self.options.base:
            return "not asked for: --base REVISION"
        free = free_gib()
        return f"may need {gib:.0f} GiB of memory, and {free:.1f} are free" if gib > free else ""

    def absent(self, kind: str, dtype: str, why: str) -> None:
        """Rows with the reason."""
        for batch in self.subject.batches:
            self.rows.append({"network": self.name, "batch": batch, "contender": kind, "dtype": dtype, "status": why})

    def agrees(self, contender: Contender, kind: str, dtype: str) -> bool:
        """Draw the images of each batch size, which makes the network ready; a row for each says how far they are."""
        known = contender.first()
        if known.get("absent"):
            self.absent(kind, dtype, known["absent"])
            return False
        holds = True
        for batch in self.subject.batches:
            path = self.folder / "images.npy"
            found = contender.ask({"images": str(path), "batch": batch})
            if found.get("absent"):
                self.absent(kind, dtype, found["absent"])
                return False
            images = np.load(path).astype(np.float64)
            exact = self.reference.setdefault(batch, images)
            difference = apart(images, exact, dtype)
            row = {"network": self.name, "batch": batch, "contender": kind, "dtype": dtype, "status": "measured"}
            row |= {"steps": self.subject.steps, "difference": difference, "ready_seconds": found["seconds"]}
            if not difference <= TOLERANCES[dtype]:
                row["status"] = (
                    "WRONG: " * (kind in OURS)
                    + f"differs by {difference:.1e} (allowed: {TOLERANCES[dtype]:.0e}); no speed"
                )
                holds = False
            self.rows.append(row)
        return holds

    def take_turns(self, ready: Mapping[tuple[str, str], Contender]) -> None:
        """Times into the rows."""
        order = random.Random(0)
        names = list(ready)
        for batch in self.subject.batches:
            times: dict[tuple[str, str], list[float]] = {name: [] for name in names}
            for turn in range(self.options.repeats):
                tell(f"{self.name}, batch {batch}: round {turn + 1} of {self.options.repeats}")
                for name in order.sample(names, len(names)):
                    asked = {"runs": self.subject.runs, "batch": batch, "warm": self.subject.warm}
                    times[name].append(median(ready[name].ask(asked)["seconds"]))
            for row in self.rows:
                mine = times.get((row["contender"], row["dtype"]))
                if row["batch"] == batch and row["status"] == "measured" and mine:
                    row |= columns(mine, batch, times)


def apart(images: "np.ndarray[Any, Any]", exact: "np.ndarray[Any, Any]", dtype: str) -> float:
    """max |a - b| / max |b|; in bfloat16, where one value may be far off with torch's own, |a - b| / |b| over all."""
    if dtype == "float32":
        return float(np.abs(images - exact).max() / np.abs(exact).max())
    return float(np.linalg.norm(images - exact) / np.linalg.norm(exact))


def columns(mine: Sequence[float], batch: int, times: Mapping[tuple[str, str], Sequence[float]]) -> dict[str, Any]:
    """The numbers of a row: its own, and its ratio to each other contender, within the rounds."""
    low, _, high = quantiles([*mine, *mine[: len(mine) == 1]], n=4, method="inclusive")  # which takes two at least
    found: dict[str, Any] = {"rounds": len(mine), "ms": 1e3 * median(mine), "ms_q1": 1e3 * low, "ms_q3": 1e3 * high}
    found |= {"ms_per_image": found["ms"] / batch}
    for (kind, dtype), theirs in times.items():
        found[f"over {kind} {dtype}"] = median(ours / other for ours, other in zip(mine, theirs, strict=True))
    return found


def tell(text: str) -> None:
    """A line of progress, with the time since the start."""
    print(f"[{time.perf_counter() - STARTED:6.0f} s] {text}", file=sys.stderr, flush=True)


def page(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The table as text."""
    for name, subject in SUBJECTS.items():
        mine = [row for row in rows if row["network"] == name]
        if not mine:
            continue
        yield f"\n{subject.title}; {subject.steps} step{'s' * (subject.steps > 1)}"
        heads = f"{'ms a run':>10} {'(quartiles)':<19}{'ms/image':>9}{'ready, s':>10}  differs by"
        yield f"{'batch':>5}  {'contender':<20}{heads}"
        for row in sorted(mine, key=lambda row: (row["batch"], row["dtype"] != "float32")):
            named = row["contender"] + " bf16" * (row["dtype"] == "bfloat16")
            who = f"{row['batch']:>5}  {named:<20}"
            if "ms" not in row:
                yield f"{who}  {row['status']}"
                continue
            spread = f"({row['ms_q1']:.1f}..{row['ms_q3']:.1f})"
            numbers = f"{row['ms']:10.1f} {spread:<19}{row['ms_per_image']:9.1f}{row['ready_seconds']:10.1f}"
            yield f"{who}{numbers}  {row['difference']:.1e}"


def folder_name(about: Mapping[str, object]) -> str:
    """Of results on this CPU: its model and its cores in words."""
    words = "".join(letter.lower() if letter.isalnum() else " " for letter in str(about["cpu"])).split()
    return "-".join([*words, str(about["cores"]), "cores"])


def terrain(stack: ExitStack) -> str:
    """A folder of the terrain model: the one that is there, or one converted now. Gone, with the reason, if neither."""
    from fewstep.cli import main as fewstep

    if (ROOT / ".models/terrain").is_dir():
        return str(ROOT / ".models/terrain")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fewstep-terrain-"))) / "terrain"
    if fewstep(["convert", "terrain", "--out", str(folder)]):
        raise Gone("the model is not here: make demo-terrain fetches it")
    return str(folder)


def trees(stack: ExitStack, base: str | None) -> tuple[dict[str, Path], str]:
    """This tree and, where one is asked for, a checkout of the revision, with its short name."""
    if base is None:
        return {"present": ROOT}, ""
    sys.path.append(str(ROOT / "tools"))
    worktree = importlib.import_module("bench_base").worktree

    tree, short = stack.enter_context(worktree(ROOT, base))
    return {"present": ROOT, "before": tree}, short


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SUBJECTS), metavar="NAMES", help=f"of {', '.join(SUBJECTS)}; all")
    parser.add_argument("--base", metavar="REVISION", help="what fewstep was before: a commit, branch or tag; without")
    parser.add_argument("--dtypes", default=",".join(DTYPES), metavar="NAMES", help="float32, bfloat16 or both; both")
    parser.add_argument("--repeats", type=int, default=9, help="rounds that count; 9")
    parser.add_argument("--threads", type=int, default=2, help="of each process; 2")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for the files; benchmarks/results/<cpu>; - for none"
    )
    options = parser.parse_args(argv)
    options.only, options.dtypes = options.only.split(","), options.dtypes.split(",")
    for name, allowed in (("only", SUBJECTS), ("dtypes", DTYPES)):
        wrong = [each for each in getattr(options, name) if each not in allowed]
        if wrong:
            parser.error(f"--{name}: got {wrong[0]!r}; allowed: {', '.join(allowed)}")
    for name in ("repeats", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: got {getattr(options, name)}; allowed: from 1")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    import torch

    options = arguments(argv)
    about = describe_machine(torch.device("cpu")) | {"threads": options.threads, "rounds": options.repeats}
    out = ROOT / "benchmarks/results" / folder_name(about) if options.out is None else options.out
    report = Report(None if str(out) == "-" else out / "cpu_backends", about)
    with ExitStack() as stack:
        there, about["base"] = trees(stack, options.base)
        for name in options.only:
            try:
                model = terrain(stack) if name == "terrain" else ""
            except Gone as why:
                report.rows.append({"network": name, "batch": 1, "contender": "all", "dtype": "", "status": str(why)})
                continue
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fewstep-cpu-")))
            groups = [options.dtypes] if SUBJECTS[name].together else [[dtype] for dtype in options.dtypes]
            side = Side(name, options, folder)
            for dtypes in groups:
                side.measure(dtypes, there, model)
            for row in side.rows:
                if row["status"] == "measured" or row["status"].startswith("WRONG"):
                    report.check(f"{name}: {row['contender']} in {row['dtype']}", row["status"] == "measured")
            report.rows += side.rows
            report.save()
        about["load_after"] = round(os.getloadavg()[0], 2)
    versions = ", ".join(f"{name} {about[name]}" for name in ("torch", "openvino", "diffusers"))
    print(f"{about['cpu']}, {about['cores']} cores, {options.threads} threads; {versions}")
    print(f"load before {about['load']}, after {about['load_after']}; median of {options.repeats} rounds")
    print(*page(report.rows), sep="\n")
    promises = kept(report.rows)
    about["promises"] = promises
    print("", *(promise["text"] for promise in promises), sep="\n")
    return report.finish()


STARTED = time.perf_counter()

if __name__ == "__main__":
    sys.exit(main())

"""Attention of real U-Nets: ours beside torch's own, each of its backends and FlashAttention, parity first.

    python benchmarks/attention.py --out build/attention       on an NVIDIA GPU, after `make build`
    python benchmarks/attention.py --seconds 600               every case, however long it takes
    python benchmarks/attention.py --dry-run                   on a CPU, tiny shapes, ours in the emulator

Parity comes first, against float64. Ours may be twice as far from it as torch's own in the same dtype, as in the tests;
the others, whose promise is another, 1 %. What is further off, refuses or is not here says so and has no time.

Times are of the device alone: every contender is captured in a CUDA graph of its own, of about 2 ms, and the graphs of
a case are replayed in turn. All of them begin and end in the U-Net's layout, [B, L, H, D]; "laid out" begins with keys
and values that `lay_out` has copied before. What fits the L2 cache is there for everybody.

The floor of a case is the longest of three times: its operations at the rate of a large bfloat16 product, its
exponentials at that of a chain of them, its bytes at that of a large copy, each measured in this run.
"""

import argparse
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from attention_cases import CASES, TINY, Case, Ceilings, exact
from attention_contenders import OURS, TORCH, Contender, NotHereError, contenders, own_refusal
from measure import Report, Spread, captured, describe, in_turn, relative_error, script_options, timed
from torch import Tensor

from fewstep_kernels.measured import EXACT_WIDTHS

SECONDS = 35.0  # after so long no further case begins
ROUNDS, CASE_SECONDS = 25, 1.0
GRAPH_SECONDS, MAX_CALLS = 2e-3, 20
BASELINES_MAY_ERR = 1e-2  # relative L2; bfloat16 gives 2e-3 to 5e-3


@dataclass
class Entry:
    """A contender in a case, its call, and what is known of it by now: with a status it is not to be timed."""

    contender: Contender
    attend: Callable[[], Tensor]
    row: dict[str, Any] = field(default_factory=dict)


def described(case: Case) -> dict[str, Any]:
    """Its columns."""
    sizes = {"B": case.B, "H": case.H, "queries": case.Lq, "keys": case.Lk, "head_dim": case.D}
    return {"case": case.name, **sizes, "dtype": "bfloat16"}


def first_line(error: Exception) -> str:
    """Of its message, no longer than a line of the table."""
    return (str(error).strip().splitlines() or [""])[0][:100]


def summary(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """For every case where ours was measured: its fastest form, its lead on torch's own and on the fastest other."""
    for name in dict.fromkeys(row["case"] for row in rows):
        measured = [row for row in rows if row["case"] == name and row["status"] == "measured"]
        ours = [row for row in measured if row["contender"].startswith(OURS)]
        others = [row for row in measured if not row["contender"].startswith(OURS)]
        if ours and others:
            mine, theirs = (min(each, key=lambda row: row["us"]) for each in (ours, others))
            head = f"{name:<20}{mine['contender']:<16}{mine['us']:9.2f} us  {mine['share_of_floor']:6.1%} of the floor"
            yield f"{head}  {mine['of_torch']:.2f} x torch, {theirs['us'] / mine['us']:.2f} x {theirs['contender']}"


def repeated(attend: Callable[[], object], device: torch.device) -> tuple[Callable[[], object], int]:
    """What is timed, and how many calls it is: a graph's replay, or on a CPU one call."""
    if device.type != "cuda":
        return attend, 1
    one = timed(attend, device, seconds=0.0).median
    calls = max(1, min(MAX_CALLS, round(GRAPH_SECONDS / one)))
    return captured(attend, calls).replay, calls


class Bench:
    """All cases on one device."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.dry_run, self.seconds = options.device, options.dry_run, options.seconds
        self.report = Report(options.out, describe(self.device))
        self.ceilings = Ceilings.of(self.device, self.dry_run)
        self.report.about |= {
            "bfloat16_operations_per_second": self.ceilings.operations,
            "exponentials_per_second": self.ceilings.exponentials,
            "copy_bytes_per_second": self.ceilings.bytes,
            "exact_widths": EXACT_WIDTHS,
        }

    def run(self) -> int:
        """Every case, in the order listed, while there is time."""
        if self.dry_run:
            print("DRY RUN: ours is emulated, so these times say nothing")
        if why_not := own_refusal(self.device):
            self.report.not_run.append(f"{OURS}: {why_not}")
            print(f"{OURS}: {why_not}")
        c = self.ceilings
        print(f"products {c.operations / 1e12:.1f} T/s, exponentials {c.exponentials / 1e12:.2f} T/s,", end=" ")
        print(f"copy {c.bytes / 1e9:.0f} GB/s; times of one call in us, median [10th to 90th percentile]")
        end = time.perf_counter() + self.seconds
        for case in TINY if self.dry_run else CASES:
            if time.perf_counter() > end:
                self.report.rows.append(described(case) | {"status": "not run: no time left"})
                print(f"{case.name}: no time left")
                continue
            self.case(case)
            self.report.save()
            if not self.alive():
                self.report.check("the device has failed, so nothing more can be asked of it", False)
                break
        print("\nours beside the fastest other")
        for line in summary(self.report.rows):
            print(f"  {line}")
        return self.report.finish()

    def alive(self) -> bool:
        """Whether the device still answers: a kernel that writes where it may not ends that for this process."""
        try:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
                torch.cuda.empty_cache()  # the memory of the graphs
        except RuntimeError:
            return False
        return True

    def case(self, case: Case) -> None:
        """Check all contenders, time those that hold, keep and print a row of each."""
        floor, bound = self.ceilings.floor(case)
        print(f"\n{case.name}: B {case.B}, H {case.H}, {case.Lq} x {case.Lk}, D {case.D}", end="; ")
        print(f"floor {1e6 * floor:.2f} us ({bound})")
        with torch.no_grad():
            entries = self.checked(case)
            times = self.times(case, entries)
        theirs = times[TORCH].median if TORCH in times else math.nan
        for entry in entries:
            if spread := times.get(entry.contender.name):
                rate, share = case.operations / spread.median / 1e12, floor / spread.median
                timing = {"TFLOP/s": rate, "share_of_floor": share, "of_torch": theirs / spread.median}
                entry.row = {"status": "measured", **spread.us(), **timing} | entry.row
            self.keep(case, entry, {"floor_us": 1e6 * floor, "bound": bound})

    def checked(self, case: Case) -> list[Entry]:
        """Every contender, once it has been compared with float64."""
        q, k, v = case.tensors(self.device)
        wanted, entries, allowed = exact(q, k, v), [], BASELINES_MAY_ERR
        for contender in contenders(case, self.device):
            entry = Entry(contender, functools.partial(contender.attend, *contender.arguments(q, k, v)))
            entries.append(entry)
            try:
                torch.full_like(q, math.nan)  # the next tensor of this size is given its memory
                error = relative_error(entry.attend(), wanted)
            except NotHereError as refused:
                entry.row["status"] = f"not run: {first_line(refused)}"
                continue
            except Exception as failure:
                self.fail(case, entry, failure)
                continue
            if contender.name == TORCH:
                allowed = 2 * error
            entry.row |= {"error": error, "allowed": allowed if contender.is_ours else BASELINES_MAY_ERR}
            holds = error <= entry.row["allowed"]
            if contender.is_ours:
                what = f"{case.name}, {contender.name}: off by {error:.1e}, allowed {allowed:.1e}"
                self.report.check(what, holds)
            if not holds:
                entry.row["status"] = f"wrong: off by {error:.1e}"
        return entries

    def times(self, case: Case, entries: list[Entry]) -> dict[str, Spread]:
        """Of one call of each that may be timed."""
        works: dict[str, Callable[[], object]] = {}
        calls: dict[str, int] = {}
        for entry in entries:
            name = entry.contender.name
            if "status" not in entry.row:
                try:
                    works[name], calls[name] = repeated(entry.attend, self.device)
                except Exception as failure:
                    self.fail(case, entry, failure)
        found = in_turn(works, self.device, 2 if self.dry_run else ROUNDS, CASE_SECONDS)
        return {name: Spread.of([each / calls[name] for each in times]) for name, times in found.items()}

    def fail(self, case: Case, entry: Entry, failure: Exception) -> None:
        """Note what a contender raised; from ours that is a fault."""
        entry.row["status"] = f"failed: {type(failure).__name__}: {first_line(failure)}"
        if entry.contender.is_ours:
            self.report.check(f"{case.name}, {entry.contender.name}: {entry.row['status']}", False)

    def keep(self, case: Case, entry: Entry, floor: dict[str, Any]) -> None:
        """A row, in the report and on the screen."""
        row, name = entry.row, entry.contender.name
        self.report.rows.append(described(case) | {"contender": name, **floor} | row)
        text = row["status"]
        if text == "measured":
            text = f"{row['us']:9.2f} [{row['us_p10']:.2f} to {row['us_p90']:.2f}]  {row['TFLOP/s']:6.1f} TFLOP/s"
            text += f"  {row['share_of_floor']:6.1%} of the floor  {row['of_torch']:5.2f} x torch"
            text += f"  off {row['error']:.1e}"
        print(f"  {name:<18}{text}", flush=True)


def main() -> int:
    """All of it."""
    return Bench(script_options(__doc__.splitlines()[0], seconds=SECONDS)).run()


if __name__ == "__main__":
    sys.exit(main())

"""The ops beside the same in plain torch and by torch.compile of that, parity first, from memory and not from cache.

    python benchmarks/ops.py --out build/ops                on an NVIDIA GPU: the Triton kernels
    python benchmarks/ops.py                                without one: what the ops run on a CPU
    python benchmarks/ops.py --only "geglu, SD"             some cases, however large
    python benchmarks/ops.py --dry-run                      tiny shapes, the kernels in Triton's interpreter

    contender        what it is
    ours             the op of fewstep_kernels as the library runs it on this device; on a CPU that is the twin or a
                     function for the host, of torch's own ops, so that no speed is claimed there
    eager            the same in plain torch, as people write it
    compiled         torch.compile of that, for these shapes alone
    copy             torch's copy of as many bytes: what nothing that has to move them can beat
    ours, dependent  the norm with a second launch that begins while the first ends, where a GPU can; the same bits

Parity: a result may be twice as far from float64 as torch's own in the same dtype, and one eps; all values together and
the worst one. What is further off has no speed, and if it is ours the script fails.

A sample is one call. Ahead of it, outside of the timed region, the last-level cache is overwritten. The timed region is
on a GPU one call captured in a CUDA graph, between two events of the device; on a CPU one call by the host's clock.
In every round each contender runs once, in a new order. The copy and the products of the ceilings are large ones.
`called_us` is, on a GPU, a call that is not captured: with what the host needs for its launches.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from measure import (
    RAW,
    Report,
    captured,
    describe,
    flusher,
    in_turn,
    put_kernels_in_place,
    script_options,
    synchronize,
)
from op_cases import OpCase, cases, tiny_cases
from op_contenders import COMPILED, COPY, DEPENDENT, EAGER, OURS, Verdict, contenders, copy_of, equal
from op_parity import Parity
from op_rows import Ceilings, described, line, rates, timing
from op_work import Call, Tensors, Work

SHOWN = (OURS, DEPENDENT, EAGER, COMPILED, COPY)
SECONDS, COMPILE_SECONDS = 80.0, 40.0  # after so long no further case begins, and nothing more is compiled
ROUNDS, CASE_SECONDS, CALLED_ROUNDS = 100, 0.4, 15
NO_TIME = "not run: no time left"


class Bench:
    """All cases on one device."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.dry_run, self.only = options.device, options.dry_run, options.only
        self.seconds, self.compile_seconds = options.seconds, options.compile_seconds
        self.report = Report(options.out, describe(self.device))
        if self.dry_run or self.device.type == "cuda":
            self.report.about["ops"] = put_kernels_in_place(self.device.type).origin
        region = "one call in a CUDA graph, by events" if self.gpu else "one call, by the host's clock"
        self.report.about["timed_region"] = region
        self.ceilings = Ceilings.of(self.device, self.dry_run)
        self.flush = flusher(self.device)

    @property
    def gpu(self) -> bool:
        """Whether graphs and events are at hand."""
        return bool(self.device.type == "cuda")

    def run(self) -> int:
        """Every case while there is time."""
        if self.dry_run:
            print("DRY RUN: the kernels are interpreted, so these times say nothing")
        elif not self.gpu:
            print("On a CPU our ops are torch's own ones, put together: no speed is claimed for them.")
        products = ", ".join(f"{name} products {rate / 1e12:.3g}" for name, rate in self.ceilings.products.items())
        print(f"copy {self.ceilings.copy / 1e9:.1f} GB/s; {products} TFLOP/s. Medians; x is the time over eager's")
        started = time.perf_counter()
        every = tiny_cases() if self.dry_run else cases(self.device, self.only)
        for index, case in enumerate(each for each in every if self.only in str(each)):
            spent = time.perf_counter() - started
            if spent > self.seconds:
                self.report.rows.append(described(case) | {"status": NO_TIME})
                continue
            compiles = index == 0 if self.dry_run else spent < self.compile_seconds
            with torch.no_grad():
                self.case(case, compiles)
            self.report.save()
            if self.gpu:
                torch.cuda.empty_cache()  # the memory of the graphs
        if left := sum(row["status"] == NO_TIME for row in self.report.rows):
            print(f"\nno time left for {left} cases; --seconds and --compile-seconds give more")
        self.hold_to_ceilings()
        return self.report.finish()

    def hold_to_ceilings(self) -> None:
        """Measure them again, and have each share be of the better of both; those on the screen are of the first."""
        before, after = self.ceilings, Ceilings.of(self.device, self.dry_run)
        best = before.better(after)
        self.report.about |= {
            "copy_bytes_per_second": best.copy,
            "operations_per_second": dict(best.products),
            "ceilings": {"before": asdict(before), "after": asdict(after)},
        }
        for row in self.report.rows:
            row |= best.shares(row)

    def case(self, case: OpCase, compiles: bool) -> None:
        """Check all contenders of one, time those that are right, keep and print their rows."""
        print(f"\n{case} [{'x'.join(map(str, case.shape))}]", flush=True)
        work = case.work(self.device)
        parity = Parity.of(work)
        rows: dict[str, dict[str, Any]] = {}
        ready: dict[str, Call] = {}
        for name, call in contenders(work, compiles).items():
            rows[name] = self.checked(case, name, call, work, parity)
            if "status" not in rows[name]:
                ready[name] = call
        if not compiles:
            why_not = "a dry run compiles the first case alone" if self.dry_run else "no time left to compile it"
            rows[COMPILED] = {"status": f"not run: {why_not}"}
        if not work.operations:
            rows[COPY], ready[COPY] = {}, copy_of(work.bytes, self.device)
        self.measure(case, work, ready, rows)
        for name in sorted(rows, key=SHOWN.index):
            row = rows[name]
            self.report.rows.append(described(case) | {"contender": name} | row)
            print(line(name, row), flush=True)

    def checked(self, case: OpCase, name: str, call: Call, work: Work, parity: Parity) -> dict[str, Any]:
        """A contender's errors; with a status, why it is not to be timed. If it is ours that is a check that failed."""
        verdict = Verdict.of(name, call, work, parity)
        if name in (OURS, *work.more):
            self.report.check(f"{case}, {name}: {verdict.why_not}", not verdict.why_not)
        row: dict[str, Any] = {"status": verdict.why_not} if verdict.why_not else {}
        if verdict.errors:
            allowed = parity.allowed
            row |= {"difference": verdict.errors.difference, "allowed": allowed.difference}
            row |= {"worst": verdict.errors.worst, "worst_allowed": allowed.worst}
        return row

    def measure(self, case: OpCase, work: Work, ready: dict[str, Call], rows: dict[str, dict[str, Any]]) -> None:
        """Time them in turn, and put what was found into their rows."""
        works: dict[str, Callable[[], object]] = {}
        for name, call in ready.items():
            try:
                works[name] = self.prepared(case, work, name, call)
            except Exception as error:
                rows[name]["status"] = f"failed in a graph: {type(error).__name__}"
                if name in (OURS, *work.more):
                    self.report.check(f"{case}, {name}: {rows[name]['status']}", False)

        def before() -> None:
            work.reset()
            self.flush()

        works = {name: call for name, call in works.items() if "status" not in rows[name]}
        rounds = 2 if self.dry_run else ROUNDS
        times = in_turn(works, self.device, rounds, CASE_SECONDS, before)
        called: dict[str, list[float]] = {}
        if self.gpu:

            def before_a_call() -> None:
                before()
                synchronize(self.device)  # or the host would launch while the cache is overwritten

            calls = {name: ready[name] for name in works}
            called = in_turn(calls, self.device, CALLED_ROUNDS, CASE_SECONDS, before_a_call)
        for name, each in times.items():
            found = timing(each, times.get(EAGER, []))
            found |= rates(work.bytes, work.operations, found["median_us"] / 1e6)
            found |= self.ceilings.shares(described(case) | found)
            if called:
                found["called_us"] = timing(called[name], [])["median_us"]
            raw = {RAW: found.pop(RAW)}
            rows[name] = {"status": "measured"} | rows[name] | found | raw

    def prepared(self, case: OpCase, work: Work, name: str, call: Call) -> Callable[[], object]:
        """What is timed: on a GPU the replay of a graph, which must give what the call does if that is ours."""
        if not self.gpu:
            for _ in range(0 if self.dry_run else 2):
                work.reset()
                call()
            return call
        kept: list[Tensors] = []

        def once() -> None:
            kept[:] = [call()]

        work.reset()
        graph = captured(once, 1)

        def replayed() -> Tensors:
            graph.replay()
            return kept[0]

        if name in (OURS, *work.more):
            same = equal(work, call, replayed)
            if not self.report.check(f"{case}, {name}: its graph gives other bits than the call", same):
                raise RuntimeError("other bits")
        return replayed


def main() -> int:
    """All of it."""
    options = script_options(
        __doc__.splitlines()[0],
        words={"only": "the cases with this in their name, such as 'geglu, SD 64x64, bfloat16'"},
        on_a_cpu=True,
        seconds=SECONDS,
        compile_seconds=COMPILE_SECONDS,
    )
    return Bench(options).run()


if __name__ == "__main__":
    sys.exit(main())

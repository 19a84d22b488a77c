"""One call of `make gpu`: the parts in turn, their results kept after each."""

import json
import os
import sys
import tarfile
import time
from dataclasses import asdict
from pathlib import Path

from budget import Clock, Planned, plan, table, too_long
from commands import SOURCES, Command, Part, Stopped, bounded, stoppable
from progress import STATE, SUMMARY, Progress, digest_of, write_whole
from scrub import Scrubber
from verdicts import NOT_RUN, Ending, Outcome, Result, exit_code, judge

BUDGET_SECONDS = 540.0
LOG_BYTES = 200_000  # of a log that is kept
TEXTS = {".json", ".csv", ".log", ".txt", ".xml"}  # what is cleaned of a machine's paths and names


class Run:
    """One call of `make gpu`.

    Args:
        machine: the name of the folder of results, such as nvidia-h200.
        out: where results.tar and summary.json go.
        results: the folder that keeps the results, replaced part by part.
        dry_run: on a CPU; nothing is proven then, only walked.
        root: of the tree, where every command runs.
        progress: what earlier calls have done.
    """

    def __init__(self, machine: str, out: Path, results: Path, dry_run: bool, root: Path, progress: Progress) -> None:
        self.machine, self.out, self.results, self.dry_run, self.root = machine, out, results, dry_run, root
        self.progress, self.stage = progress, progress.folder
        self.scrub = Scrubber(root, Path(sys.prefix))
        self.about = {"machine": machine, "dry_run": dry_run, "source": digest_of(root, SOURCES)}
        self.done: list[Result] = []

    def run(self, parts: dict[str, Part], seconds: float = BUDGET_SECONDS, again: bool = False) -> int:
        """Run what fits into so many seconds, and return the exit code; `again`: also what was proven before."""
        clock = Clock(seconds, time.monotonic)
        self.out.mkdir(parents=True, exist_ok=True)
        self.progress.forget_stale(parts)
        if again:
            self.progress.forget_all(parts)
        planned = plan(parts, self.progress, seconds)
        print(*table(planned, seconds), sep="\n", flush=True)
        with stoppable():
            try:
                for each in planned:
                    self.part(each, clock)
            except Stopped as stop:
                print(f"\n{stop}; what was done is in {self.scrub(str(self.out))}")
                self.summarise(parts)
                return 1
        self.summarise(parts)
        return exit_code(self.done)

    def part(self, planned: Planned, clock: Clock) -> None:
        """Run a part within what is left, take it from an earlier call, or leave it out."""
        name, part = planned.name, planned.part
        earlier = self.progress.result(name) if planned.holds else None
        left_out = too_long(part, clock.left) if part.seconds > clock.left else ""
        result = earlier or Result(name, [], left_out)
        self.done.append(result)
        if earlier or left_out:
            return
        print(f"\n== {name}: {part.title} (at most {min(part.limit, clock.left):.0f} s)", flush=True)
        self.progress.begin(name, part)
        try:
            for command in part.commands:
                self.execute(command, result, clock)
        finally:
            self.keep(result, part)

    def execute(self, command: Command, result: Result, clock: Clock) -> None:
        """Run one command within its limit, and add what became of it."""
        outcome = Outcome(command.name, NOT_RUN)
        result.outcomes.append(outcome)
        stem = self.stage / command.name
        arguments = command.argv(self.root, stem, self.dry_run)
        if arguments is None:
            outcome.notes.append(f"there is no {' '.join(command.arguments) or 'such test'}")
            return
        limit = max(1.0, min(command.seconds, clock.left))
        started, ending = time.monotonic(), Ending(None, "stopped from outside")
        try:
            argv, log = [sys.executable, *arguments], stem.with_suffix(".log")
            code = bounded(argv, self.root, self.environment(), limit, log, self.scrub)
            cut = limit < command.seconds
            why = f"the budget ended after {limit:.0f} s" if cut else f"over its time limit of {limit:.0f} s"
            ending = Ending(code, why, cut)
        finally:
            outcome.seconds = round(time.monotonic() - started, 1)
            judge(outcome, ending, stem, command.pytest, self.dry_run)

    def environment(self) -> dict[str, str]:
        """Of every command."""
        places = ["engine", "kernels", *filter(None, [os.environ.get("PYTHONPATH")])]
        found = os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}
        if self.dry_run:
            found |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return found

    def keep(self, result: Result, part: Part) -> None:
        """Write the part's result, clean every file, and put them where they outlast this run."""
        record = {"part": result.part, "status": result.status, **self.about, "date": time.strftime("%Y-%m-%d")}
        record["commands"] = [asdict(outcome) for outcome in result.outcomes]
        write_whole(self.stage / f"{result.part}-result.json", (json.dumps(record, indent=1) + "\n").encode())
        self.progress.record(result.part, part, result.status)
        self.results.mkdir(parents=True, exist_ok=True)
        files = self.progress.files()
        for path in files:
            if path.name == STATE:
                continue
            if path.suffix in TEXTS:
                text = path.read_text(errors="replace")
                clean = shortened(self.scrub(text))
                if clean != text:
                    write_whole(path, clean.encode())
            write_whole(self.results / path.name, path.read_bytes())
        self.bundle(files)

    def bundle(self, files: list[Path]) -> None:
        """The summary, and everything in one tar."""
        rows = [{"part": each.part, "status": each.status, **each.totals()} for each in self.done]
        write_whole(self.out / SUMMARY, (json.dumps(self.about | {"parts": rows}, indent=1) + "\n").encode())
        temporary = self.out / ".results.tar"
        with tarfile.open(temporary, "w") as tar:
            for path in [*files, self.out / SUMMARY]:
                tar.add(path, arcname=f"{self.machine}/{path.name}", filter=_anonymous)
        temporary.replace(self.out / "results.tar")

    def summarise(self, parts: dict[str, Part]) -> None:
        """The table that ends a run."""
        self.bundle(self.progress.files())
        kind = "a dry run on a CPU: nothing here is proven on a GPU" if self.dry_run else self.machine
        print(f"\n{'part':<12}{'status':<10}{'passed':>7}{'failed':>7}{'skipped':>8}{'seconds':>9}   ({kind})")
        found = {result.part: result for result in self.done}
        for name in parts:
            result = found.get(name, Result(name, []))
            totals = result.totals()
            print(
                f"{name:<12}{result.status:<10}{totals['passed']:>7}{totals['failed']:>7}{totals['skipped']:>8}"
                f"{totals['seconds']:>9.1f}   {self.scrub('; '.join(totals['notes']))[:120]}"
            )
        print(f"results: {self.scrub(str(self.out / 'results.tar'))} and {self.scrub(str(self.results))}", flush=True)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def shortened(text: str) -> str:
    """The beginning and the end of a long text."""
    half = LOG_BYTES // 2
    return text if len(text) <= 2 * half else f"{text[:half]}\n[... cut ...]\n{text[-half:]}"

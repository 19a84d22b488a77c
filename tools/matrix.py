"""`make matrix`: the tests of kernels, graphs and engine with several versions of torch, each with its own triton.

    make matrix                                  torch 2.10, 2.11, 2.13 and the newest that resolves
    make matrix VERSIONS="2.11 newest"           some of them; any 2.N can be named
    make matrix PYTHON=python3.12                in venvs of another Python, 3.11 to 3.13
    make matrix ARGS="--venv PATH"               in a venv that is there already: nothing is downloaded
    make matrix ARGS="--plan"                    say what it would download, and stop

Each version gets a venv of its own below build/matrix, one at a time, removed once it is tested. A dry run of pip
decides what is newest, and what a download is going to be; where the disk has too little, nothing is begun. Then the
tests run on the CPU, kernels in Triton's interpreter, and every kernel is compiled for sm_90 by tools/compile_gate.py.

A run that was stopped goes on where it was: a version that is done is skipped until the code, its tests or the version
change. The results are in build/matrix/matrix.json, what pip and the tests said in a log for each version.

PROVEN: tests ran and all passed, and every kernel compiled well. FAILED: something did not. NOT RUN: with the reason.
The exit code is 0 where every version is proven, 1 where one has failed, 3 where one was not run, 2 where nothing was
begun, 130 where it was stopped.
"""

import argparse
import fcntl
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from matrix_results import FAILED, NOT_RUN, PROVEN, Results, Row, count, exit_code, source_digest, table
from matrix_venv import (
    ROOT,
    NotRun,
    Resolved,
    install,
    interpreter,
    make_venv,
    minor,
    python_version,
    resolve,
    stream,
    versions,
)

VERSIONS = "2.10 2.11 2.13 newest"
TESTS = (
    "tests/kernels/test_fused_*.py",
    "tests/kernels/test_kernel_*.py",
    "tests/kernels/test_attention_choice.py",
    "tests/kernels/test_attention_laid_out.py",
    "tests/run/test_graphs*.py",
    "tests/request/test_manifest.py",
    "tests/engine/test_engine*.py",
    "tests/run/test_loop_properties.py",
    "tests/run/test_batch_invariance.py",
    "tests/kernels/test_host_step.py",
)
SPARE = 1.0  # GB of the disk that are left alone
GATE = re.compile(r"compile gate: (\d+) rows, (\d+) at fault")


@dataclass(frozen=True)
class Job:
    """A version that is to be tested: in a venv to be made, or in one that is there."""

    row: Row
    resolved: Resolved | None = None
    venv: Path | None = None


class Matrix:
    """One call of `make matrix`, and the results that it and earlier calls have in `folder`."""

    def __init__(self, folder: Path, python: Path, tests: Sequence[str], jobs: int, minutes: float) -> None:
        self.folder, self.python, self.tests, self.jobs, self.minutes = folder, python, tests, jobs, minutes
        self.python_version = python_version(python) or ""
        self.source = source_digest(tests)
        self.results = Results(folder / "matrix.json")

    def plan(self, asked: Sequence[str], again: bool) -> tuple[list[Row], list[Job]]:
        """What needs no work or cannot be had, and what is to be tested, in the order asked for."""
        finished: dict[str, Row] = {}
        jobs: dict[str, Job] = {}
        resolver = None
        try:
            for version in dict.fromkeys(asked):
                row = Row(version, self.python_version, source=self.source)
                if not again and version != "newest" and (earlier := self.results.done(row)):
                    finished[row.key] = earlier
                    continue
                log = self.folder / "resolve.log"
                resolver = resolver or make_venv(self.python, self.folder / "venv-resolver", log)
                print(f"asking pip for torch {version}", flush=True)
                try:
                    resolved = resolve(resolver, version, self.folder, log)
                except NotRun as reason:
                    row.notes.append(f"does not resolve: {reason}")
                    finished[row.key] = row
                    continue
                row.torch = resolved.torch
                if not again and (earlier := self.results.done(row, exactly=True)):
                    finished[row.key] = earlier
                else:
                    jobs[row.key] = Job(row, resolved)
        finally:
            shutil.rmtree(self.folder / "venv-resolver", ignore_errors=True)
        return list(finished.values()), list(jobs.values())

    def of_venvs(self, venvs: Sequence[Path], again: bool) -> tuple[list[Row], list[Job]]:
        """Likewise of venvs that are there."""
        finished, jobs = [], []
        for venv in venvs:
            found = versions(venv.absolute() / "bin" / "python")
            row = Row(found["torch"], minor(found["python"]), source=self.source)
            earlier = None if again else self.results.done(row, exactly=True)
            finished += [earlier] if earlier else []
            jobs += [] if earlier else [Job(row, venv=venv.absolute())]
        return finished, jobs

    def test(self, job: Job, keep: bool) -> None:
        """Test one version, keep the result, and then remove the venv if it was made for this."""
        row = job.row
        name = row.key.replace(" ", "-")
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        venv = job.venv or self.folder / f"venv-{name}"
        try:
            try:
                python = venv / "bin" / "python"
                if job.resolved:
                    python = install(self.python, venv, job.resolved, self.folder, log)
                self.examine(python, row, log)
            except NotRun as reason:
                row.notes.append(str(reason))
            self.results.keep(row)
        finally:
            if job.venv is None and not (keep and (venv / "resolved.json").exists()):
                print(f"   removing {venv.name}", flush=True)
                (venv / "resolved.json").unlink(missing_ok=True)  # first: what is half-removed must not be used again
                shutil.rmtree(venv, ignore_errors=True)

    def examine(self, python: Path, row: Row, log: Path) -> None:
        """Run the tests and the gate in a venv, and give the row its status."""
        row.date, row.source = time.strftime("%Y-%m-%d"), source_digest(self.tests)
        found = versions(python)
        row.torch, row.triton, row.numpy = (found[name] for name in ("torch", "triton", "numpy"))
        started = time.monotonic()
        self.run_tests(python, row, log)
        self.run_gate(python, row, log)
        row.seconds = round(time.monotonic() - started, 1)
        if source_digest(self.tests) != row.source:
            raise NotRun("the tree changed while it was tested")
        if row.failed or row.at_fault or row.notes:
            row.status = FAILED
        elif not row.passed or not row.compiled:
            raise NotRun("no kernel was compiled" if row.passed else "no test ran")
        else:
            row.status = PROVEN

    def run_tests(self, python: Path, row: Row, log: Path) -> None:
        """pytest in the venv, counted from its report; no GPU is in sight, so that every venv tests the same."""
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        files = [str(path) for pattern in self.tests for path in sorted(ROOT.glob(pattern))]
        workers = ["-n", str(self.jobs)] if self.jobs > 1 and _has_xdist(python, log) else []
        options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", *workers]
        code, _ = stream(
            [python, "-m", "pytest", *options, *files],
            log,
            lambda line: line.endswith("%]") or line.startswith("FAILED") or " passed" in line,
            seconds=60 * self.minutes,
            PYTHONPATH="engine:kernels",
            OMP_NUM_THREADS="1",
            CUDA_VISIBLE_DEVICES="",
        )
        failures = count(report, row)
        report.unlink(missing_ok=True)
        if code is None:
            row.notes.append(f"the tests were over their limit of {self.minutes:g} minutes")
        elif row.failed:
            row.notes.append(f"{', '.join(failures[:3])}{' and others' * (len(failures) > 3)} failed")
        elif code:
            row.notes.append(f"pytest ended with {code}")

    def run_gate(self, python: Path, row: Row, log: Path) -> None:
        """Every kernel compiled by the venv's triton."""
        gate = [python, ROOT / "tools/compile_gate.py", "--arch", "90"]
        code, lines = stream(gate, log, lambda line: line.startswith("compile gate"), seconds=60 * self.minutes)
        counts = next((found for line in reversed(lines) if (found := GATE.search(line))), None)
        if counts:
            row.compiled, row.at_fault = int(counts[1]), int(counts[2])
        if row.at_fault or code:
            words = f"{row.at_fault} kernels at fault" if row.at_fault else (lines or [f"exit code {code}"])[-1]
            row.notes.append(f"compile gate: {words}")
        elif code is None:
            row.notes.append(f"compile gate: over its limit of {self.minutes:g} minutes")


def _has_xdist(python: Path, log: Path) -> bool:
    return stream([python, "-c", "import xdist"], log, lambda line: False)[0] == 0


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """This folder for one call at a time; SIGTERM is as Ctrl-C, so that a run ended from outside tidies up."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"folder: got {folder}; allowed: one that no other make matrix is at work in") from None
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for path in folder.glob("venv-*"):
                if not (path / "resolved.json").exists():  # of a run that was killed
                    shutil.rmtree(path, ignore_errors=True)
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", help=f"of torch, by default {VERSIONS!r}; with --venv, none")
    parser.add_argument("--python", help="3.12, a name or a path; by default the one that runs this")
    parser.add_argument("--venv", type=Path, action="append", default=[], help="test in this venv; may be repeated")
    parser.add_argument("--again", action="store_true", help="also what is done already")
    parser.add_argument("--keep", action="store_true", help="leave the venvs there, and take them the next time")
    parser.add_argument("--plan", action="store_true", help="only say what would be done")
    parser.add_argument("--tests", default=" ".join(TESTS), help="patterns of files")
    parser.add_argument("--jobs", type=int, default=2, help="processes of the tests")
    parser.add_argument("--minutes", type=float, default=40.0, help="limit of the tests, and of the compiling")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/matrix", help="of venvs, logs and results")
    options = parser.parse_args(argv)
    options.versions = (options.versions or ("" if options.venv else VERSIONS)).split()
    for version in options.versions:
        if version != "newest" and not re.fullmatch(r"2\.\d+", version):
            parser.error(f"versions: got {version}; allowed: newest, or two numbers such as 2.13")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parsed(argv)
    folder = options.folder.absolute()
    try:
        with alone(folder):
            matrix = Matrix(folder, interpreter(options.python), options.tests.split(), options.jobs, options.minutes)
            finished, jobs = matrix.plan(options.versions, options.again)
            more = matrix.of_venvs(options.venv, options.again)
            finished, jobs = finished + more[0], jobs + more[1]
            announce(finished, jobs)
            if not fits(jobs, folder, options.keep):
                return 2
            return 0 if options.plan else report(matrix, finished, jobs, options.keep)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here")
        return 130
    except (ValueError, NotRun) as error:
        print(error, file=sys.stderr)
        return 2


def announce(finished: Sequence[Row], jobs: Sequence[Job]) -> None:
    """What is there already, and what is going to be done."""
    for row in finished:
        words = "; ".join(row.notes) if row.status == NOT_RUN else f"on {row.date}; --again repeats it"
        print(f"{row.key}: {row.status}, {words}")
    for job in jobs:
        how = f"in {job.venv}"
        if job.resolved:
            triton, numpy = job.resolved.pins["triton"], job.resolved.pins["numpy"]
            how = f"triton {triton}, numpy {numpy}: about {job.resolved.download:.1f} GB to download"
        print(f"{job.row.key}: torch {job.row.torch}, {how}")


def fits(jobs: Sequence[Job], folder: Path, keep: bool) -> bool:
    """Whether the disk has room for the largest of the venvs, or for all that are kept; says so."""
    made = [job.resolved for job in jobs if job.resolved]
    need = (sum if keep else max)([0.0, *(each.disk for each in made)])
    free = shutil.disk_usage(folder).free / 1e9
    download = sum(each.download for each in made)
    print(f"together about {download:.1f} GB to download and {need:.1f} GB of disk at a time; {free:.1f} GB are free")
    if made and need + SPARE > free:
        print(f"nothing was begun: {need + SPARE:.1f} GB have to be free in {folder}", file=sys.stderr)
        return False
    return True


def report(matrix: Matrix, finished: list[Row], jobs: Sequence[Job], keep: bool) -> int:
    """Test what is to be tested, then the table; stopped in between, the table of what there is."""
    for row in finished:
        matrix.results.keep(row)
    rows = list(finished)
    try:
        for number, job in enumerate(jobs, 1):
            print(f"\n== torch {job.row.key}, {number} of {len(jobs)}", flush=True)
            rows.append(job.row)
            matrix.test(job, keep)
    finally:
        print(f"\n{table(rows)}\nresults: {matrix.results.path}", flush=True)
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())

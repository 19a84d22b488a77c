"""Running parts: commands bounded in time, judged by the checks they report, their results kept after every part."""

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from scrub import Scrubber

PROVEN, WALKED, FAILED, NOT_RUN = "PROVEN", "WALKED", "FAILED", "NOT RUN"
GRACE = 5.0  # of a command's time limit, in seconds: for pytest to write its report once interrupted
NO_TESTS, SKIPPED = 5, 77  # exit codes: pytest's own, and automake's for a test that cannot run here
LOG_BYTES = 200_000  # of a log that is kept
TEXTS = {".json", ".csv", ".log", ".txt", ".xml"}  # what is cleaned of a machine's paths and names


@dataclass(frozen=True)
class Command:
    """One process: its arguments come after the interpreter, and a pytest run's are patterns of files."""

    name: str  # of its files
    seconds: float  # its limit
    arguments: tuple[str, ...]
    pytest: bool = False
    workers: int = 1  # of a pytest run, where pytest-xdist is there: at most so many, and two cores for each
    dry: tuple[str, ...] = ()  # further arguments in a dry run


@dataclass(frozen=True)
class Part:
    """What `PARTS="..."` can name."""

    title: str
    commands: tuple[Command, ...]
    default: bool = True

    @property
    def seconds(self) -> float:
        """Its limit."""
        return sum(command.seconds for command in self.commands)


@dataclass
class Outcome:
    """What became of a command."""

    command: str
    status: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass
class Result:
    """What became of a part: proven if every command of it is."""

    part: str
    outcomes: list[Outcome]

    @property
    def status(self) -> str:
        """The worst of its commands'."""
        found = {outcome.status for outcome in self.outcomes}
        return next((status for status in (FAILED, NOT_RUN, WALKED) if status in found), PROVEN if found else NOT_RUN)


class Stopped(Exception):  # noqa: N818
    """Somebody wants the run to end."""


class Run:
    """One call of `make gpu`.

    Args:
        machine: the name of the folder of results, such as nvidia-h200.
        out: where results.tar and summary.json go.
        results: the folder that keeps the results, replaced part by part.
        dry_run: on a CPU; nothing is proven then, only walked.
        root: of the tree, where every command runs.
    """

    def __init__(self, machine: str, out: Path, results: Path, dry_run: bool, root: Path) -> None:
        self.machine, self.out, self.results, self.dry_run, self.root = machine, out, results, dry_run, root
        self.scrub = Scrubber(root, Path(sys.prefix))
        self.about = {"machine": machine, "dry_run": dry_run, "source": source_digest(root)}
        self.done: list[Result] = []

    def run(self, parts: dict[str, Part]) -> int:
        """Run the parts in turn, and return the exit code."""
        self.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fewstep-gpu-") as folder, stoppable():
            stage = Path(folder)
            try:
                for name, part in parts.items():
                    print(f"\n== {name}: {part.title} (at most {part.seconds:.0f} s)", flush=True)
                    result = Result(name, [])
                    self.done.append(result)
                    try:
                        for command in part.commands:
                            self.execute(command, stage, result)
                    finally:
                        self.keep(result, stage)
            except Stopped as stop:
                print(f"\n{stop}; what was done is in {self.scrub(str(self.out))}")
                self.summarise(parts)
                return 1
        self.summarise(parts)
        return exit_code(self.done)

    def execute(self, command: Command, stage: Path, result: Result) -> None:
        """Run one command within its limit, its output on the screen and in its log, and add what became of it."""
        outcome = Outcome(command.name, NOT_RUN)
        result.outcomes.append(outcome)
        stem = stage / command.name
        arguments = self.arguments(command, stem)
        if arguments is None:
            outcome.notes.append(f"there is no {' '.join(command.arguments) or 'such test'}")
            return
        started, code = time.monotonic(), None
        try:
            code = self.bounded([sys.executable, *arguments], command.seconds, stem.with_suffix(".log"))
            if code is None:
                outcome.notes.append(f"over its time limit of {command.seconds:.0f} s")
        except Stopped:
            outcome.notes.append("stopped from outside")
            raise
        finally:
            outcome.seconds = round(time.monotonic() - started, 1)
            self.judge(command, outcome, stem, code)

    def arguments(self, command: Command, stem: Path) -> list[str] | None:
        """What comes after the interpreter; None for a command whose files are not there."""
        if not command.pytest:
            there = command.arguments[0].startswith("-") or (self.root / command.arguments[0]).exists()
            dry = ["--dry-run", *command.dry] if self.dry_run else []
            return [*command.arguments, "--out", str(stem), *dry] if there else None
        files = [path for pattern in command.arguments for path in sorted(self.root.glob(pattern))]
        mark = ["-m", "not gpu", *command.dry] if self.dry_run else ["-m", "gpu"]
        workers = min(command.workers, (os.cpu_count() or 1) // 2) if importlib.util.find_spec("xdist") else 1
        parallel = ["-n", str(workers)] if workers > 1 else []
        options = ["-q", "-p", "no:cacheprovider", f"--junitxml={stem}.xml", *parallel, *mark]
        return ["-m", "pytest", *options, *map(str, files)] if files else None

    def bounded(self, argv: Sequence[str], seconds: float, log: Path) -> int | None:
        """The exit code; None where it had to be stopped."""
        places = ["engine", "kernels", *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}
        if self.dry_run:
            environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        grace = min(GRACE, seconds / 2)
        process = subprocess.Popen(
            argv,
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        with log.open("w") as file:
            reader = threading.Thread(target=self._copy_lines, args=(process.stdout, file), daemon=True)
            reader.start()
            try:
                return process.wait(seconds - grace)
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(grace)
                return None
            finally:
                _signal(process, signal.SIGKILL)  # and whatever it started
                process.wait()
                reader.join(2)

    def _copy_lines(self, source: IO[str], log: IO[str]) -> None:
        for line in source:
            clean = self.scrub(line)
            print(f"   {clean}", end="", flush=True)
            with suppress(ValueError):  # the log is closed: a grandchild kept the pipe open
                log.write(clean)
                log.flush()

    def judge(self, command: Command, outcome: Outcome, stem: Path, code: int | None) -> None:
        """Set the outcome's status and counts. What ran no check is not run, whatever it exited with."""
        if command.pytest:
            read_junit(stem.with_suffix(".xml"), outcome)
        else:
            read_checks(stem.with_suffix(".json"), outcome)
        if code is None:
            outcome.status = FAILED
        elif code in (NO_TESTS if command.pytest else SKIPPED,) and not outcome.failed:
            outcome.status = NOT_RUN
            outcome.notes = outcome.notes or ["no test ran"]
        elif code or outcome.failed:
            outcome.status = FAILED
            outcome.notes = outcome.notes or [f"exit code {code}"]
        elif not outcome.passed:
            outcome.status = NOT_RUN
            outcome.notes = outcome.notes or ["nothing was checked"]
        else:
            outcome.status = WALKED if self.dry_run else PROVEN

    def keep(self, result: Result, stage: Path) -> None:
        """Write the part's result, clean every file, and put them where they outlast this run."""
        record = {"part": result.part, "status": result.status, **self.about, "date": time.strftime("%Y-%m-%d")}
        record["commands"] = [asdict(outcome) for outcome in result.outcomes]
        (stage / f"{result.part}-result.json").write_text(json.dumps(record, indent=1) + "\n")
        self.results.mkdir(parents=True, exist_ok=True)
        for path in sorted(stage.iterdir()):
            if path.suffix in TEXTS:
                path.write_text(shortened(self.scrub(path.read_text(errors="replace"))))
            _write_whole(self.results / path.name, path.read_bytes())
        self._summary_file()
        temporary = self.out / ".results.tar"
        with tarfile.open(temporary, "w") as tar:
            for path in [*sorted(stage.iterdir()), self.out / "summary.json"]:
                tar.add(path, arcname=f"{self.machine}/{path.name}", filter=_anonymous)
        temporary.replace(self.out / "results.tar")

    def _summary_file(self) -> None:
        rows = [{"part": each.part, "status": each.status, **_totals(each)} for each in self.done]
        _write_whole(self.out / "summary.json", (json.dumps(self.about | {"parts": rows}, indent=1) + "\n").encode())

    def summarise(self, parts: dict[str, Part]) -> None:
        """The table that ends a run."""
        kind = "a dry run on a CPU: nothing here is proven on a GPU" if self.dry_run else self.machine
        print(f"\n{'part':<12}{'status':<10}{'passed':>7}{'failed':>7}{'skipped':>8}{'seconds':>9}   ({kind})")
        found = {result.part: result for result in self.done}
        for name in parts:
            result = found.get(name, Result(name, []))
            totals = _totals(result)
            print(
                f"{name:<12}{result.status:<10}{totals['passed']:>7}{totals['failed']:>7}{totals['skipped']:>8}"
                f"{totals['seconds']:>9.1f}   {self.scrub('; '.join(totals['notes']))[:120]}"
            )
        print(f"results: {self.scrub(str(self.out / 'results.tar'))} and {self.scrub(str(self.results))}", flush=True)


def _totals(result: Result) -> dict[str, Any]:
    counts = {name: sum(getattr(each, name) for each in result.outcomes) for name in ("passed", "failed", "skipped")}
    notes = [f"{each.command}: {note}" for each in result.outcomes for note in each.notes]
    return counts | {"seconds": round(sum(each.seconds for each in result.outcomes), 1), "notes": notes}


def exit_code(results: Sequence[Result]) -> int:
    """0 only where every part asked for is proven, or walked in a dry run."""
    found = {result.status for result in results}
    return 1 if FAILED in found else 3 if NOT_RUN in found or not found else 0


def read_junit(path: Path, outcome: Outcome) -> None:
    """Add the counts of a pytest report, and the first names of what failed; then drop it."""
    try:
        cases = ElementTree.parse(path).iter("testcase")
    except (OSError, ElementTree.ParseError):
        return
    for case in cases:
        tags = {child.tag for child in case}
        if tags & {"failure", "error"}:
            outcome.failed += 1
            if outcome.failed <= 3:
                outcome.notes.append(f"{case.get('name')} failed")
        elif "skipped" in tags:
            outcome.skipped += 1
        else:
            outcome.passed += 1
    path.unlink()


def read_checks(path: Path, outcome: Outcome) -> None:
    """Add the counts that a script wrote."""
    try:
        report = json.loads(path.read_text())
        outcome.passed, outcome.failed = (int(report["checks"][name]) for name in ("passed", "failed"))
        outcome.notes += [str(reason) for reason in report.get("not_run", [])]
    except (OSError, ValueError, KeyError, TypeError):
        outcome.notes.append("wrote no report of its checks")


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGINT raise Stopped, so that a run that is ended from outside still writes what it has."""

    def stop(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # the second time, what is being written is left alone
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal(process: subprocess.Popen[str], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(content)
    temporary.replace(path)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def shortened(text: str) -> str:
    """The beginning and the end of a long text."""
    half = LOG_BYTES // 2
    return text if len(text) <= 2 * half else f"{text[:half]}\n[... cut ...]\n{text[-half:]}"


def source_digest(root: Path) -> str:
    """Of the code that a result is about, so that one can tell whether it is still that."""
    digest = hashlib.sha256()
    for folder in ("engine", "kernels", "csrc"):
        for path in sorted(root.glob(f"{folder}/**/*")):
            if path.suffix in {".py", ".cu", ".cuh", ".cpp", ".h"}:
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]

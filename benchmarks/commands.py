"""Parts and their commands, and how one runs: a process of its own, stopped at its limit with all that it started."""

import importlib.util
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

GRACE = 5.0  # of a command's time limit, in seconds: for pytest to write its report once interrupted
UNTIL_GONE = 10.0  # seconds that a killed process is waited for
PATIENCE = 3  # times its limit that a command may take in a dry run
SOURCES = ("engine", "kernels", "csrc")


@dataclass(frozen=True)
class Command:
    """One process: its arguments come after the interpreter, and a pytest run's are patterns of files."""

    name: str  # of its files
    seconds: float  # its limit
    arguments: tuple[str, ...]
    pytest: bool = False
    workers: int = 1  # of a pytest run, where pytest-xdist is there: at most so many, and two cores for each
    dry: tuple[str, ...] = ()  # further arguments in a dry run

    def argv(self, root: Path, stem: Path, dry_run: bool) -> list[str] | None:
        """What comes after the interpreter; None where its files are not there."""
        if not self.pytest:
            there = self.arguments[0].startswith("-") or (root / self.arguments[0]).exists()
            dry = ["--dry-run", *self.dry] if dry_run else []
            return [*self.arguments, "--out", str(stem), *dry] if there else None
        files = [path for pattern in self.arguments for path in sorted(root.glob(pattern))]
        mark = ["-m", "not gpu", *self.dry] if dry_run else ["-m", "gpu"]
        workers = min(self.workers, (os.cpu_count() or 1) // 2) if importlib.util.find_spec("xdist") else 1
        parallel = ["-n", str(workers)] if workers > 1 else []
        options = ["-q", "-p", "no:cacheprovider", f"--junitxml={stem}.xml", *parallel, *mark]
        return ["-m", "pytest", *options, *map(str, files)] if files else None


@dataclass(frozen=True)
class Part:
    """What `PARTS="..."` can name.

    Attributes:
        expected: the seconds that it should need, by which a call is planned; its limit unless given.
        walked: those in a dry run.
        sources: the folders that its result is about: one that is proven runs again once a file there has changed.
        decides: it comes before what golden.py decides, so its result does not depend on that.
    """

    title: str
    commands: tuple[Command, ...]
    expected: float | None = None
    walked: float | None = None
    default: bool = True
    sources: tuple[str, ...] = SOURCES
    decides: bool = False

    @property
    def limit(self) -> float:
        """Those of its commands together."""
        return sum(command.seconds for command in self.commands)

    def walk(self) -> "Part":
        """The part of a dry run: a CPU's other work may not fail it."""
        commands = tuple(replace(each, seconds=PATIENCE * each.seconds) for each in self.commands)
        return replace(self, commands=commands, expected=self.seconds if self.walked is None else self.walked)

    @property
    def seconds(self) -> float:
        """What it is planned with."""
        return self.limit if self.expected is None else self.expected


class Stopped(Exception):  # noqa: N818
    """Somebody wants the run to end."""


def bounded(
    argv: Sequence[str],
    root: Path,
    environment: dict[str, str],
    seconds: float,
    log: Path,
    clean: Callable[[str], str],
) -> int | None:
    """Run a command with its output, cleaned, on the screen and in its log.

    Gives back its exit code, or None where it had to be stopped: interrupted a little before its limit, then killed.
    """
    grace = min(GRACE, seconds / 2)
    process = subprocess.Popen(
        argv,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    with log.open("w") as file:
        reader = threading.Thread(target=_copy_lines, args=(process.stdout, file, clean), daemon=True)
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
            with suppress(subprocess.TimeoutExpired):  # a driver that hangs may hold a process that was killed
                process.wait(UNTIL_GONE)
            reader.join(2)


def _copy_lines(source: IO[str], log: IO[str], clean: Callable[[str], str]) -> None:
    for line in source:
        text = clean(line)
        print(f"   {text}", end="", flush=True)
        with suppress(ValueError):  # the log is closed: a grandchild kept the pipe open
            log.write(text)
            log.flush()


def _signal(process: subprocess.Popen[str], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


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

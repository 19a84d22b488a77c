"""Cases run by a process of their own, and by a new one after each that ends it: a hang or a trap costs one case."""

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import IO, Any, NamedTuple

BEGIN, END = "begin: ", "end: "  # how the child's lines about a case begin
UNTIL_GONE = 10.0  # seconds that a killed process is waited for


class Ended(NamedTuple):
    """A case, and what the child found; or None, and the last it said before it was gone."""

    case: str
    found: Any
    said: str = ""


def child(cases: Sequence[str], run: Callable[[str], Any]) -> None:
    """What the process does: each case in turn, and a line of JSON about what `run` gives."""
    for case in cases:
        print(BEGIN + case, flush=True)
        print(END + json.dumps(run(case)), flush=True)


def run_isolated(command: Sequence[str], cases: Sequence[str], start: float, seconds: float) -> Iterator[Ended]:
    """Every case once: `command` with the cases behind it is a process that calls `child`.

    A process may be silent for `start` seconds before its first case, and a case may take `seconds`.
    """
    left = list(cases)
    while left:
        for ended in _one_process(command, list(left), start, seconds):
            left.remove(ended.case)
            yield ended


def _one_process(command: Sequence[str], cases: Sequence[str], start: float, seconds: float) -> Iterator[Ended]:
    """The cases that a process ended, and last the one that ended it, or the first if it began none."""
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen([sys.executable, *command, *cases], text=True, errors="replace", **both)
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    running: str | None = cases[0]
    said: list[str] = []
    limit, why = start, ""
    try:
        while (line := lines.get(timeout=limit)) is not None:
            if line.startswith(BEGIN):
                running, said, limit = line.removeprefix(BEGIN), [], seconds
            elif line.startswith(END) and running is not None:
                yield Ended(running, json.loads(line.removeprefix(END)))
                running = None
            else:
                print(f"   {line}", flush=True)
                said = [*said, line][-20:]
    except queue.Empty:
        why = f"silent for {limit:.0f} s"
    finally:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(UNTIL_GONE)
    if running is not None:
        why = why or f"exit code {process.returncode}"
        yield Ended(running, None, "; ".join([why, *(line for line in said if telling(line))]))


def telling(line: str) -> bool:
    """A line that says what went wrong, and not where in Python."""
    return bool(line.strip()) and not line.startswith((" ", "Traceback"))


def _read(source: IO[str], lines: "queue.Queue[str | None]") -> None:
    for line in source:
        lines.put(line.rstrip("\n"))
    lines.put(None)

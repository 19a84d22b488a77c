"""A race in a process of its own: the task goes in as JSON, a line of JSON comes out for each thing that happened.

What one process leaves behind, such as compiled programs, memory and threads, is then no part of another's numbers, and
one that is killed or hangs costs the cell that it was at.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import IO, Any

from fewstep.bench.contenders import Case
from fewstep.bench.race import Settings

CHILD = ("-c", "from fewstep.bench.process import child; child()")
UNTIL_GONE = 10.0  # seconds that a killed process is waited for
BEGUN, TICK, CELL, FAILED, ABOUT, STARTS, ENDED = "begun", "tick", "cell", "failed", "about", "cold", "ended"

Message = dict[str, Any]  # {"kind": one of the above, ...}


@dataclass(frozen=True)
class Task:
    """What a process is asked to measure.

    Attributes:
        source: arguments of `open_subject`, without device and max_batch.
        model: the name that its rows have.
        cases: each is a cell of its own: parity, then rounds.
        settings: of the race; its steps, batches and samplers are not looked at.
        device: where it runs.
        threads: of torch.
        cold: whether cold starts are measured as well.
    """

    source: Mapping[str, Any]
    model: str
    cases: Sequence[Case]
    settings: Settings
    device: str = "cpu"
    threads: int | None = None
    cold: bool = False
    figures: Mapping[str, Any] = field(default_factory=dict)  # columns that all its rows have

    def to_dict(self) -> dict[str, Any]:
        """As it goes into the process."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Task":
        """What `to_dict` gave."""
        cases = [Case(**each) for each in data["cases"]]
        return cls(**{**data, "cases": cases, "settings": Settings(**data["settings"])})


def messages(
    task: Task, patience: float, command: Sequence[str] = CHILD, deadline: float = float("inf")
) -> Iterator[Message]:
    """What a new process says, and last an `ENDED` with why it ended before its time; "" where it did not.

    The process and all that it started are gone when this returns, however that is.

    Args:
        task: what it measures.
        patience: seconds that may pass between two cells.
        command: what is run, behind the interpreter.
        deadline: the `time.monotonic()` at which it is ended whatever it is at.
    """
    with tempfile.TemporaryFile() as told:
        process = _started(command, told)
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        reader.start()
        why, limit = "", time.monotonic() + patience
        try:
            _write(process, task)
            while True:
                line = lines.get(timeout=max(0.0, min(limit, deadline) - time.monotonic()))
                if line is None:
                    why = _why(process, told)
                    break
                message = json.loads(line)
                if message["kind"] != TICK:
                    limit = time.monotonic() + patience
                yield message
        except queue.Empty:
            late = deadline <= time.monotonic()
            why = "the time of this call was over" if late else f"over its limit of {patience:.0f} s"
        finally:
            _end(process)
            reader.join(UNTIL_GONE)
    yield {"kind": ENDED, "why": why, "late": time.monotonic() >= deadline}


def _started(command: Sequence[str], told: IO[bytes]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=told,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # so that what it starts ends with it
    )


def _write(process: "subprocess.Popen[str]", task: Task) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it is gone, and its exit code says more
        process.stdin.write(json.dumps(task.to_dict()))
        process.stdin.close()


def _read(source: IO[str], lines: "queue.Queue[str | None]") -> None:
    with source:
        for line in source:
            lines.put(line)
    lines.put(None)


def _why(process: "subprocess.Popen[str]", told: IO[bytes]) -> str:
    try:
        code = process.wait(UNTIL_GONE)
    except subprocess.TimeoutExpired:
        return "it said no more, and did not end"
    if code == 0:
        return ""
    if code == -signal.SIGKILL:
        return "killed, as a system does that is out of memory"
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    told.seek(0)
    said = [line.strip() for line in told.read().decode(errors="replace").splitlines() if line.strip()]
    return "; ".join([ended, *said[-1:]])[:300]


def _end(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(UNTIL_GONE)


def child() -> None:
    """In the new process: read the task, measure, say what was found."""
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is none of our lines

    def say(kind: str, **more: object) -> None:
        said.write(json.dumps({"kind": kind, **more}) + "\n")
        said.flush()

    measure(Task.from_dict(json.load(sys.stdin)), say)


def _tick(say: Callable[..., None], done: int, total: int) -> None:
    say(TICK, done=done, total=total)


def measure(task: Task, say: Callable[..., None]) -> None:
    """Each cell in turn, and an `ABOUT` before and the cold `STARTS` behind them.

    A cell that fails says why, and the next one follows; on CUDA, where an error outlives its cell, none does.
    """
    import torch

    from fewstep.bench.cold import cold_starts
    from fewstep.bench.figures import ceilings_in, describe_model
    from fewstep.bench.machine import describe_machine
    from fewstep.bench.race import cell, lineup_of
    from fewstep.bench.subjects import open_subject
    from fewstep.errors import FewstepError, is_out_of_memory

    if task.threads is not None:
        torch.set_num_threads(task.threads)
    machine = describe_machine(torch.device(task.device))  # first, for the load before the run
    settings, most = task.settings, max(case.batch for case in task.cases)
    try:
        subject = open_subject(**task.source, device=task.device, max_batch=most)
    except FewstepError as error:
        for index in range(len(task.cases)):
            say(FAILED, index=index, why=str(error))
        return
    say(ABOUT, machine=machine, model=describe_model(subject))
    known = lineup_of(subject, settings)
    behind: dict[str, Any] = {}  # the ceilings that were measured behind the cell before
    for index, case in enumerate(task.cases):
        say(BEGUN, index=index)
        try:
            found = cell(task.model, known, case, settings, partial(_tick, say), behind)
        except Exception as error:
            full = is_out_of_memory(error)
            why = "does not fit into memory" if full else f"failed: {type(error).__name__}: {str(error)[:300]}"
            say(FAILED, index=index, why=str(error) if isinstance(error, FewstepError) else why)
            if subject.engine.device.type == "cuda" and not full and not isinstance(error, FewstepError):
                raise
            continue
        behind = {dtype: told["after"] for dtype, told in ceilings_in(found).items()}
        readings = [each.to_dict() for each in found]
        for reading in readings:
            reading["figures"] = {**reading["figures"], **task.figures}
        say(CELL, index=index, readings=readings)
    if task.cold:
        ran = [racer.contender for racer in known.racers if not racer.lacks]
        starts = cold_starts(subject, [each for each in ran if each.kind not in settings.narrow], most)
        say(STARTS, starts=[asdict(each) for each in starts])

"""A server in a process of its own, for what only a process can show: signals, exit codes, what stands on stderr."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.serving import PATIENCE, Remote, until
from support.tree import ROOT

# Serves `tiny_family` as the command does; what a test wants to be slow or broken is said in the environment.
SCRIPT = """
import os, sys, threading, time
from fewstep.serve.address import Address
from fewstep.serve.limits import Limits
from fewstep.serve.server import logging_to_stderr, serve
from fewstep.serve.settings import Settings
from support.serving import Knobs, tiny_family

seconds, opening, broken = (os.environ.get(name) for name in ("STEP_SECONDS", "OPENING", "BROKEN"))
knobs = Knobs(seconds=float(seconds or 0))

def opened():
    while opening and os.path.exists(opening):
        time.sleep(0.01)
    return {"tiny": tiny_family(knobs=knobs)}

def fail(lanes):
    return RuntimeError("CUDA error: an illegal memory access was encountered") if os.path.exists(broken) else None

if broken:
    knobs.error = fail
limits = Limits(slots=4, drain_seconds=float(os.environ.get("DRAIN", "60")))
with logging_to_stderr("info"):
    sys.exit(serve(opened, Settings(limits), Address(port=0)))
"""


class Process:
    """One such server.

    Attributes:
        remote: seen by who asks.
        log: the lines of its stderr so far, read.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", stderr: Path) -> None:
        self.process, self._stderr = process, stderr
        until(lambda: self.event("listening") or process.poll() is not None)
        said = self.event("listening")
        assert said, stderr.read_text()
        self.remote = Remote("127.0.0.1", int(said["url"].rpartition(":")[2]))

    @property
    def log(self) -> list[dict[str, Any]]:
        whole = self._stderr.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def event(self, name: str) -> dict[str, Any] | None:
        """The first line of a kind."""
        return next((line for line in self.log if line["event"] == name), None)

    def ready(self) -> Remote:
        """Once it is."""
        until(lambda: self.remote.get("/ready").status == 200)
        return self.remote

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def code(self) -> int:
        """Once it has ended."""
        return self.process.wait(PATIENCE)


@contextmanager
def served(folder: Path, **variables: str) -> Iterator[Process]:
    """`SCRIPT`, with further variables of the environment."""
    paths = os.pathsep.join(str(ROOT / name) for name in ("engine", "kernels", "tests"))
    own: Mapping[str, str] = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "FEWSTEP_BACKEND": "torch"}
    stderr = folder / "stderr"
    with open(stderr, "wb") as file:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT], env={**os.environ, **own, **variables}, stderr=file)
    try:
        yield Process(process, stderr)
    finally:
        process.kill()
        process.wait()

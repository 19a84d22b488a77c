"""A contender of cpu_backends.py as its parent sees it: a process that is told what to do, line by line."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("cpu_contenders.py")
ENDS_IN = 20.0  # seconds that a process is waited for


class Gone(Exception):  # noqa: N818
    """Why a contender is no more."""


class Contender:
    """A process of a tree that has a network in memory and waits.

    Args:
        tree: whose fewstep it imports.
        task: what it is; see cpu_contenders.py.
        folder: for what OpenVINO's backend keeps: of a run alone, so that it is made ready anew.
    """

    def __init__(self, tree: Path, task: Mapping[str, Any], folder: Path) -> None:
        places = os.pathsep.join(str(tree / part) for part in ("engine", "kernels"))
        env = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": str(task["threads"])}
        env |= {"FEWSTEP_CACHE": str(folder / "cache")}
        self._said = folder / f"{task['kind']}-{task['dtype']}.txt"
        with self._said.open("w") as said:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said}
            self._process = subprocess.Popen([sys.executable, str(SCRIPT)], env=env, text=True, **pipes)
        self._task = task

    def first(self) -> dict[str, Any]:
        """What it says of itself once the network is there."""
        return self.ask(self._task)

    def ask(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a task. Gone, with the last it said, where there is none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            found: dict[str, Any] = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise Gone(f"failed: {self._last_words()}") from error
        return found

    def end(self) -> None:
        """Let it end, and wait."""
        assert self._process.stdin is not None
        if self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(ENDS_IN)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _last_words(self) -> str:
        self._process.wait(ENDS_IN)
        lines = [line.strip() for line in self._said.read_text().splitlines() if line.strip()]
        return (lines[-1] if lines else f"exit code {self._process.returncode}")[:200]


def free_gib() -> float:
    """Memory that may be taken, in GiB; infinite where the system does not tell."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) / 2**20 if found else float("inf")

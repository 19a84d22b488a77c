"""A Ray cluster of a test's own on this machine, and the processes of its actors."""

import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from support.serving import until

ROOT = Path(__file__).parents[2]
MARK = "FEWSTEP_TEST_CLUSTER"
SECONDS = 120.0  # for an actor to start, on a machine with much else to do


@dataclass(frozen=True)
class Cluster:
    """One that runs.

    Attributes:
        mark: in the environment of each of its processes.
    """

    mark: str

    def processes(self, title: str) -> list[int]:
        """Of the actors whose process is called so; no other cluster's."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    called = (folder / "cmdline").read_bytes().split(b"\0")[0].decode("utf-8", "replace")
                    mine = f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
                except OSError:  # it has ended meanwhile
                    continue
                if mine and called.startswith("ray::") and title in called:
                    found.append(int(folder.name))
        return found

    def kill(self, process: int) -> None:
        """As kill -9 does; returns once it is gone."""
        os.kill(process, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{process}/cmdline").exists() or not _called(process), SECONDS)


def _called(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()  # empty for one that is gone and not yet waited for
    except OSError:
        return b""


@contextmanager
def cluster(cpus: int = 2) -> Iterator[Cluster]:
    """Start one without a dashboard, on this tree's code, and leave nothing of it behind."""
    mark = secrets.token_hex(8)
    # Sockets lie in it, whose paths have to be short.
    folder = tempfile.mkdtemp(prefix="fs", dir="/tmp" if Path("/tmp").is_dir() else None)
    code = os.pathsep.join(str(ROOT / each) for each in ("engine", "kernels", "tests"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        patch.setenv("PYTHONPATH", code)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", str(SECONDS))
        patch.setenv("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", str(SECONDS))
        patch.delenv("RAY_ADDRESS", raising=False)
        try:
            _start(cpus, folder)
            yield Cluster(mark)
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _start(cpus: int, folder: str) -> None:
    """Ray gives its own processes half a minute to start, which a machine with much else to do may need more of."""
    for last in (False, False, True):
        try:
            ray.init(
                "local",
                num_cpus=cpus,
                num_gpus=0,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=96 << 20,
                _temp_dir=folder,
            )
        except Exception as error:
            ray.shutdown()
            if last or "timed out" not in str(error):
                raise
        else:
            return


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])

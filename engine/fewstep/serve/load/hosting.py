"""A server of our own for a load: a process beside this one, on loopback, stopped at the end."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import fewstep
import fewstep_kernels
from fewstep.errors import FewstepError

READY = 600.0  # seconds that a model may take to be loaded and warmed
STOP = 40.0  # seconds that it has after SIGTERM


@contextmanager
def hosted(model: str, options: Sequence[str] = (), *, seconds: float = READY) -> Iterator[str]:
    """`fewstep serve` of a model in a process of its own, within the context; the address.

    Args:
        model: as `fewstep serve` takes it.
        options: of `fewstep serve`.
        seconds: after which a server that is not ready has failed.

    Raises:
        FewstepError: it did not become ready; with the last of what it said.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "fewstep.cli",
        "serve",
        model,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *options,
    ]
    paths = [
        str(Path(str(module.__file__)).parents[1]) for module in (fewstep, fewstep_kernels)
    ]  # also where not installed
    env = {name: value for name, value in os.environ.items() if name != "FEWSTEP_API_KEY"}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=said,
            stdin=subprocess.DEVNULL,
            env=env | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            _wait(process, url, time.monotonic() + seconds, said.fileno())
            yield url
        finally:
            _stop(process)


def _wait(process: subprocess.Popen[bytes], url: str, end: float, said: int) -> None:
    while True:
        if process.poll() is not None or time.monotonic() > end:
            size = os.fstat(said).st_size
            last = os.pread(said, 600, max(0, size - 600)).decode(errors="replace").strip()
            state = "ended" if process.poll() is not None else "was not ready in time"
            raise FewstepError(f"the server {state}: {last or 'it said nothing'}")
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(f"{url}/ready", timeout=5):
            return
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

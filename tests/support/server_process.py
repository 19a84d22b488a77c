"""A server in a process of its own, for tests that watch its memory or give it a load.

`python -m support.server_process '{"seconds": 0.1}'` is what the other side runs.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.serve import Limits
from fewstep.serve.settings import Settings
from support.serving import Knobs, Remote, digits_family, running_server, tiny_family


@dataclass(frozen=True)
class Other:
    """A server in another process."""

    remote: Remote
    pid: int

    @property
    def resident(self) -> int:
        """Bytes of it in memory now, as Linux says it."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)
        assert found, status
        return int(found[1]) * 1024


@contextmanager
def server_process(**told: Any) -> Iterator[Other]:
    """A server, within the context.

    Args:
        told: "seconds" that a step takes longer, "limits" as fields of `Limits`, "size" of the pictures, "send_buffer"
            as `running_server` takes it; or "digits".
    """
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "support.server_process", json.dumps(told)]
    process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), url
        yield Other(Remote("127.0.0.1", int(url.rpartition(":")[2])), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(told: dict[str, Any]) -> None:
    """Serve until SIGTERM, or until whoever started this has gone."""
    settings = Settings(limits=Limits(**told.get("limits", {})))
    knobs = Knobs(seconds=told.get("seconds", 0.0), calls=deque(maxlen=0))  # nobody sees them, and they take memory
    tiny = tiny_family("tiny", knobs, size=told.get("size", 8))
    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    threading.Thread(target=lambda: (sys.stdin.read(), end.set()), daemon=True).start()
    family = digits_family() if told.get("digits") else tiny
    with running_server(family, settings, drain=5.0, send_buffer=told.get("send_buffer")) as remote:
        print(remote.url, flush=True)
        end.wait()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

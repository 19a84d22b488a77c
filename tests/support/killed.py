"""A process that is killed while it writes several files."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from support.tree import ROOT

KILLED = """
import os, signal, sys, types
from pathlib import Path

package = types.ModuleType("fewstep")  # without its torch
package.__path__ = [sys.argv[1]]
sys.modules["fewstep"] = package
from fewstep.files import AtomicFiles

method, at, folder, names = sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5:]
call, seen = getattr(os, method), []

def instead(*arguments, **more):
    seen.append(1)
    if len(seen) == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(*arguments, **more)

setattr(os, method, instead)
with AtomicFiles() as files:
    for name in names:
        files.open(Path(folder) / name).write(f"new {name}".encode())
"""


def killed_while_writing(folder: Path, names: Sequence[str], method: str, at: int) -> None:
    """`new <name>` is written to each; the kill comes at a call of os.replace, os.rename, os.fsync or os.link."""
    line = [sys.executable, "-c", KILLED, str(ROOT / "engine" / "fewstep"), method, str(at), str(folder), *names]
    assert subprocess.run(line, check=False).returncode == -signal.SIGKILL

"""How much memory a CPU has left, asked before something large is begun.

What is asked for here is always the least that a piece of work can take. So nothing that could run is refused, while
what cannot is refused in one line, and not by a kernel that kills the process.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from fewstep.errors import ArgumentError

CGROUPS: Final = Path("/sys/fs/cgroup")
KIB: Final = 1024
ASKED_FROM: Final = 64 << 20  # bytes; what is less is not worth the 0.1 ms of asking the system


def available() -> int | None:
    """Bytes that this process can still take, swap included: of the machine, its container and its own limits.

    None where the system does not say, as other systems than Linux do not.
    """
    return min((max(found, 0) for found in (*_machine(), *_container(), *_limits())), default=None)


def check_memory(argument: str, value: object, needed: int, what: str, device: str = "cpu") -> None:
    """ArgumentError where `what`, which takes at least `needed` bytes, cannot fit. Any other device than a CPU may."""
    why = why_not(needed, what) if device == "cpu" else None
    if why is not None:
        raise ArgumentError(argument, value, f"what fits into memory; {why}")


def why_not(needed: int, what: str) -> str | None:
    """Why what takes so many bytes cannot fit; None where it may."""
    if needed <= ASKED_FROM:
        return None
    free = available()
    if free is None or needed <= free:
        return None
    return f"{what} takes at least {gib(needed)}, and {gib(free)} are free"


def gib(size: int) -> str:
    """A number of bytes as people read it."""
    return f"{size / 2**30:,.1f} GiB"


def _machine() -> Iterator[int]:
    """What can be had without swapping, and the swap that is free."""
    with suppress(OSError, ValueError, KeyError):
        found = _meminfo()
        yield found["MemAvailable"] + found["SwapFree"]


def _container() -> Iterator[int]:
    """What control groups of version 2 leave; files that are held in memory can be dropped, and do not count."""
    with suppress(OSError, ValueError):
        own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
        place = CGROUPS / "".join(own).strip("/")
        for folder in (place, *place.parents):
            if folder.is_relative_to(CGROUPS):
                with suppress(OSError, ValueError, KeyError):  # no limit is the word "max"
                    most = int((folder / "memory.max").read_text())
                    lines = (folder / "memory.stat").read_text().splitlines()
                    held = int(dict(line.split() for line in lines)["anon"])
                    yield most + _meminfo()["SwapFree"] - held


def _meminfo() -> dict[str, int]:
    """/proc/meminfo, in bytes."""
    lines = (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return {name: KIB * int(rest.split()[0]) for name, _, rest in lines}


def _limits() -> Iterator[int]:
    """What `ulimit -v` leaves."""
    if sys.platform == "linux":
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most != resource.RLIM_INFINITY:
            with suppress(OSError, ValueError):
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                yield most - pages * resource.getpagesize()

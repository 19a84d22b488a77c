"""A process that keeps entries in a cache of backends which others keep entries in too."""

import time
import warnings
from pathlib import Path

from fewstep.run.backends.cache import Cache, key_of

LIMIT = 40_000  # bytes, of half the entries


def keeps_many(folder: Path, seconds: float) -> None:
    """Until the time is over; AssertionError for an entry that is not what was kept under its name."""
    warnings.simplefilter("error")
    cache, until = Cache(folder, LIMIT), time.monotonic() + seconds
    while time.monotonic() < until:
        for number in range(8):
            data = bytes([number]) * 10_000
            key = key_of({"number": number})
            entry = cache.keep(key, {"number": number}, lambda new, data=data: (new / "a.bin").write_bytes(data))  # type: ignore[misc]
            try:
                found = None if entry is None else (entry.path / "a.bin").read_bytes()
            except FileNotFoundError:  # driven out in between
                continue
            if found not in (None, data):
                raise AssertionError(number)

"""What a matrix has measured so far: a file for each cell and run, whole or not there, and what it holds for."""

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fewstep_kernels
from fewstep.bench.contenders import Case
from fewstep.bench.machine import lasting
from fewstep.bench.results import FORMAT, Reading
from fewstep.files import atomic_write
from fewstep.version import __version__

FOLDER = "cells"
# What a time cannot depend on: those that show it, and rooms that no race enters.
ELSEWHERE = ("cli", "serve", "train", "evaluate", "cost", "bench/reports")


@dataclass(frozen=True)
class Cell:
    """A network and a case: what has one row for each contender.

    Attributes:
        model: the name in its rows: of the network, and its size where that is not its own.
    """

    model: str
    case: Case

    def __str__(self) -> str:
        return f"{self.model}, {self.case}"

    @property
    def stem(self) -> str:
        """Of its files: digits.ddim.4-steps.batch-1."""
        name = re.sub(r"[^A-Za-z0-9_@-]+", "-", self.model).strip("-")
        return f"{name}.{self.case.sampler}.{self.case.steps}-steps.batch-{self.case.batch}"


@dataclass(frozen=True)
class Record:
    """A cell in one run: its readings, or why there are none.

    Attributes:
        key: what it holds for, of `key_of`.
        seconds: that it took, with all that came before it in its process.
        failed: why there are no readings.
    """

    cell: Cell
    run: int
    key: str
    seconds: float
    readings: Sequence[Reading] = ()
    failed: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As its file holds it."""
        return {"format": FORMAT, **asdict(self), "readings": [each.to_dict() for each in self.readings]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Record":
        """What `to_dict` gave."""
        cell = Cell(data["cell"]["model"], Case(**data["cell"]["case"]))
        known: dict[str, Any] = {name: value for name, value in data.items() if name != "format"}
        return cls(**known | {"cell": cell, "readings": [Reading.from_dict(each) for each in data["readings"]]})


class Cells:
    """The files of a folder.

    Args:
        folder: holds them; made when there is the first to write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self, cell: Cell, run: int, key: str) -> Record | None:
        """What an earlier call found; None where there is nothing, or it holds for something else."""
        try:
            found = Record.from_dict(json.loads(self._path(cell, run).read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if (found.cell, found.run, found.key) == (cell, run, key) else None

    def keep(self, record: Record) -> None:
        """Write it. OutputError where that fails."""
        with atomic_write(self._path(record.cell, record.run)) as file:
            file.write(json.dumps(record.to_dict()).encode() + b"\n")

    def cold(self, model: str, key: str) -> list[dict[str, Any]] | None:
        """The cold starts of a network, if there are any that hold."""
        try:
            found = json.loads(self._cold_path(model).read_text())
            return list(found["starts"]) if (found["model"], found["key"]) == (model, key) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep_cold(self, model: str, key: str, starts: Sequence[Mapping[str, Any]]) -> None:
        """Write them. OutputError where that fails."""
        with atomic_write(self._cold_path(model)) as file:
            file.write(json.dumps({"model": model, "key": key, "starts": list(starts)}).encode() + b"\n")

    def forget(self) -> None:
        """Remove all of them."""
        for path in self.folder.glob("*.json"):
            path.unlink()

    def _path(self, cell: Cell, run: int) -> Path:
        return self.folder / f"{cell.stem}.run{run}.json"

    def _cold_path(self, model: str) -> Path:
        return self.folder / f"{re.sub(r'[^A-Za-z0-9_@-]+', '-', model).strip('-')}.cold.json"


def key_of(machine: Mapping[str, object], about: Mapping[str, object]) -> str:
    """In short: the processor, the versions and threads, the code, and what else a measurement is about."""
    text = json.dumps([lasting(machine), dict(about), code_digest()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def code_digest() -> str:
    """Of the files of fewstep and its kernels that a time may depend on."""
    package, kernels = Path(__file__).resolve().parent.parent, Path(fewstep_kernels.__file__).resolve().parent
    digest = hashlib.sha256(__version__.encode())
    for root in (package, kernels):
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if not name.startswith(tuple(f"{each}/" for each in ELSEWHERE)):
                digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]

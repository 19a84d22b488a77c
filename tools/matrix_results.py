"""What `make matrix` finds: a row for each version of torch, the rows as a table, and the file that keeps them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from matrix_venv import ROOT, minor

PROVEN, FAILED, NOT_RUN = "PROVEN", "FAILED", "NOT RUN"


@dataclass
class Row:
    """What became of one version of torch on one Python."""

    torch: str  # as asked for, until its exact version is known
    python: str
    status: str = NOT_RUN
    triton: str = ""
    numpy: str = ""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    compiled: int = 0  # kernels, by the gate
    at_fault: int = 0
    seconds: float = 0.0  # of tests and gate
    date: str = ""
    source: str = ""  # a digest of what was tested
    notes: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Its name among the results."""
        return f"{minor(self.torch)} on {self.python}"


class Results:
    """The rows of this call and of earlier ones, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        try:
            found = [Row(**each) for each in json.loads(path.read_text())["rows"]]
            self.rows = {row.key: row for row in found}
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            print(f"{path} cannot be read ({error}) and is begun anew")

    def keep(self, row: Row) -> None:
        """Put a row into the file, which is whole at any time; what was not run leaves alone what was."""
        earlier = self.rows.get(row.key)
        if row.status == NOT_RUN and earlier and earlier.status != NOT_RUN and earlier.source == row.source:
            return
        self.rows[row.key] = row
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"rows": [asdict(self.rows[key]) for key in sorted(self.rows)]}, indent=1) + "\n")
        part.replace(self.path)

    def done(self, row: Row, exactly: bool = False) -> Row | None:
        """The row of the same version, tested with the same source; `exactly`, with this very torch."""
        earlier = self.rows.get(row.key)
        tested = earlier is not None and earlier.status != NOT_RUN and earlier.source == row.source
        return earlier if tested and (not exactly or earlier.torch == row.torch) else None


def count(report: Path, row: Row) -> list[str]:
    """Add the counts of a pytest report; the names of what failed."""
    failures = []
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return []
    for case in cases:
        tags = {child.tag for child in case}
        if tags & {"failure", "error"}:
            failures.append(str(case.get("name")))
        elif "skipped" in tags:
            row.skipped += 1
        else:
            row.passed += 1
    row.failed += len(failures)
    return failures


def source_digest(tests: Sequence[str]) -> str:
    """Of all in the tree that a result depends on: the code, the tests that run and what stands beside them."""
    digest = hashlib.sha256()
    own = ("pyproject.toml", "tools/compile_gate.py", "tools/ptx.py", "engine/**/*.py", "kernels/**/*.py", "csrc/**/*")
    beside = ("tests/conftest.py", "tests/support/*.py")
    found = {path for pattern in (*own, *tests, *beside) for path in ROOT.glob(pattern)}
    for path in sorted(found):
        if path.suffix in {".py", ".toml", ".cu", ".cuh", ".cpp", ".h"}:
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def table(rows: Sequence[Row]) -> str:
    """The results, a line for each version."""
    head = f"{'torch':<14}{'triton':<8}{'numpy':<8}{'python':<8}{'status':<9}{'passed':>7}{'failed':>7}{'skipped':>8}"
    lines = [f"{head}{'compiled':>9}{'seconds':>9}"]
    for row in rows:
        words = f"{row.torch:<14}{row.triton or '-':<8}{row.numpy or '-':<8}{row.python:<8}{row.status:<9}"
        counts = f"{row.passed:>7}{row.failed:>7}{row.skipped:>8}{row.compiled:>9}{row.seconds:>9.1f}"
        lines.append(f"{words}{counts}   {'; '.join(row.notes)}".rstrip())
    return "\n".join(lines)


def exit_code(rows: Sequence[Row]) -> int:
    """0 only where every version is proven."""
    found = {row.status for row in rows}
    return 1 if FAILED in found else 3 if NOT_RUN in found or not found else 0

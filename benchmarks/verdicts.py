"""What became of commands and parts: read from the reports that they wrote, never from an exit code alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

PROVEN, WALKED, FAILED, NOT_RUN, LEFT_OUT = "PROVEN", "WALKED", "FAILED", "NOT RUN", "LEFT OUT"
NO_TESTS, SKIPPED = 5, 77  # exit codes: pytest's own, and automake's for a test that cannot run here
NAMED = 3  # of the checks that fail


@dataclass
class Outcome:
    """What became of a command."""

    command: str
    status: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass
class Result:
    """What became of a part: proven if every command of it is."""

    part: str
    outcomes: list[Outcome]
    left_out: str = ""  # why, where it was not begun

    @property
    def status(self) -> str:
        """The worst of its commands'."""
        if self.left_out:
            return LEFT_OUT
        found = {outcome.status for outcome in self.outcomes}
        return next((status for status in (FAILED, NOT_RUN, WALKED) if status in found), PROVEN if found else NOT_RUN)

    def totals(self) -> dict[str, Any]:
        """Of all its commands, as a row of the table."""
        counts = {name: sum(getattr(each, name) for each in self.outcomes) for name in ("passed", "failed", "skipped")}
        notes = [f"{each.command}: {note}" for each in self.outcomes for note in each.notes]
        seconds = round(sum(each.seconds for each in self.outcomes), 1)
        return counts | {"seconds": seconds, "notes": [self.left_out] if self.left_out else notes}


@dataclass(frozen=True)
class Ending:
    """How a command's process ended.

    Attributes:
        code: its exit code; None where it had to be stopped.
        why: it was stopped.
        cut: that was the end of the budget, which is no fault of the command.
    """

    code: int | None
    why: str = ""
    cut: bool = False


def judge(outcome: Outcome, ending: Ending, stem: Path, pytest: bool, dry_run: bool) -> None:
    """Set the outcome's status and counts. What ran no check is not run, whatever it exited with."""
    if pytest:
        read_junit(stem.with_suffix(".xml"), outcome)
    else:
        read_checks(stem.with_suffix(".json"), outcome)
    code = ending.code
    if code is None:
        outcome.notes.insert(0, ending.why)
        outcome.status = NOT_RUN if ending.cut and not outcome.failed else FAILED
    elif code == (NO_TESTS if pytest else SKIPPED) and not outcome.failed:
        outcome.status = NOT_RUN
        outcome.notes = outcome.notes or ["no test ran"]
    elif code or outcome.failed:
        outcome.status = FAILED
        outcome.notes = outcome.notes or [f"exit code {code}"]
    elif not outcome.passed:
        outcome.status = NOT_RUN
        outcome.notes = outcome.notes or ["nothing was checked"]
    else:
        outcome.status = WALKED if dry_run else PROVEN


def exit_code(results: Sequence[Result]) -> int:
    """0 only where every part asked for is proven, or walked in a dry run."""
    found = {result.status for result in results}
    return 1 if FAILED in found else 3 if found & {NOT_RUN, LEFT_OUT} or not found else 0


def read_junit(path: Path, outcome: Outcome) -> None:
    """Add the counts of a pytest report, and the first names of what failed; then drop it."""
    try:
        cases = ElementTree.parse(path).iter("testcase")
    except (OSError, ElementTree.ParseError):
        return
    for case in cases:
        tags = {child.tag for child in case}
        if tags & {"failure", "error"}:
            outcome.failed += 1
            if outcome.failed <= NAMED:
                outcome.notes.append(f"{case.get('name')} failed")
        elif "skipped" in tags:
            outcome.skipped += 1
        else:
            outcome.passed += 1
    path.unlink()


def read_checks(path: Path, outcome: Outcome) -> None:
    """Add the counts that a script wrote."""
    try:
        report = json.loads(path.read_text())
        outcome.passed, outcome.failed = (int(report["checks"][name]) for name in ("passed", "failed"))
        outcome.notes += [str(what) for what in report.get("wrong", [])[:NAMED]]
        outcome.notes += [str(reason) for reason in report.get("not_run", [])]
    except (OSError, ValueError, KeyError, TypeError):
        outcome.notes.append("wrote no report of its checks")

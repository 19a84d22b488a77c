"""Which parts a call of `make gpu` runs: what was never run first, then what failed, as many as the time allows."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from commands import Part
from progress import Progress

FINISH = 5.0  # seconds kept for writing the last files


class Planned(NamedTuple):
    """A part, and why it is not run; empty for one that is."""

    name: str
    part: Part
    left_out: str = ""
    holds: bool = False  # an earlier call has proven it


def plan(parts: dict[str, Part], progress: Progress, seconds: float) -> list[Planned]:
    """Every part: those that hold, then those to run or to leave out, in their turn."""
    found = [Planned(name, part, holds=True) for name, part in parts.items() if progress.holds(name)]
    left = seconds - FINISH
    open_ = [name for name in parts if not progress.holds(name)]
    for name in sorted(open_, key=progress.begun):  # stable: as listed, what was never begun before what failed
        part = parts[name]
        why = "" if part.seconds <= left else too_long(part, left)
        left -= 0.0 if why else part.seconds
        found.append(Planned(name, part, why))
    return found


def too_long(part: Part, left: float) -> str:
    """Why a part is left out."""
    return f"needs about {part.seconds:.0f} s, {max(left, 0.0):.0f} s are left; the next call goes on here"


def table(planned: list[Planned], seconds: float) -> Iterator[str]:
    """The plan for the eye."""
    runs = [each.part.seconds for each in planned if not (each.left_out or each.holds)]
    yield f"plan: about {sum(runs):.0f} s of the {seconds:.0f} s that this call may take"
    for name, part, left_out, holds in planned:
        what = f"about {part.seconds:.0f} s, at most {part.limit:.0f} s"
        if holds:
            what = "proven by an earlier call, and nothing it is about has changed"
        yield f"  {name:<12}{f'left out: {left_out}' if left_out else what}"


class Clock:
    """What is left of a budget."""

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self.now, self.end = now, now() + seconds - FINISH

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - self.now()

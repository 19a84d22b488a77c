"""What the digits students score: the pictures of a model in the box beside what they cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.bench.results import MEASURED, Row


@dataclass(frozen=True)
class Score:
    """Of 5,000 pictures, by `fewstep evaluate`: the results of record are in benchmarks/results/digits.

    Attributes:
        steps: that the student was distilled to, and that it was asked for.
        accuracy: the share of its digits that are of the class that was asked for.
        frechet: distance of its digits from real ones; smaller is better.
        spread: of that distance.
    """

    steps: int
    accuracy: float
    frechet: float
    spread: float


STUDENTS = (
    Score(1, 0.9898, 4.5799, 0.273),
    Score(2, 0.9906, 3.6117, 0.2452),
    Score(4, 0.9936, 3.028, 0.2098),
    Score(8, 0.9942, 2.9019, 0.2016),
)
REAL = 1.0472  # the distance of other real digits
NETWORK, SAMPLER = "digits", "ddim"


def score_of(row: Row) -> Score | None:
    """What the pictures of a row score, where that is known: a student of the digits at its own number of steps."""
    if row.status != MEASURED or row.sampler != SAMPLER or row.model not in (NETWORK, f"{NETWORK}/{row.steps}-step"):
        return None
    return next((score for score in STUDENTS if score.steps == row.steps), None)


def scored(rows: Sequence[Row]) -> list[tuple[Row, Score]]:
    """The rows whose pictures have a score, at the largest batch size among them."""
    found = [(row, score) for row in rows if (score := score_of(row)) is not None]
    largest = max((row.batch for row, _ in found), default=0)
    return [(row, score) for row, score in found if row.batch == largest]

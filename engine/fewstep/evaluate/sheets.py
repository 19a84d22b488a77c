"""Sheets of samples: which to show, and a student's beside its teacher's."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fewstep.results import Samples

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS, ROWS, PAIRS = 10, 10, 5
MAX_SIDE: Final = 4096  # pixels of a sheet
SEEN: Final = 64  # pixels a side to which small pictures are enlarged where two are to be compared by eye
GAP, APART = 2, 8  # pixels between pictures; between a pair of rows and the next


@dataclass(frozen=True)
class Chosen:
    """Which samples a sheet shows, row by row."""

    indices: Sequence[int]
    columns: int

    @classmethod
    def of(cls, labels: Sequence[int] | None, count: int, classes: int | None, size: tuple[int, int]) -> "Chosen":
        """A column for each class, or some, where there are classes and samples enough; else the first.

        Args:
            labels: of the samples, `count` of them.
            size: height and width of one.
        """
        height, width = size
        columns, rows = (
            max(1, min(most, MAX_SIDE // (side + GAP))) for most, side in ((COLUMNS, width), (ROWS, height))
        )
        if labels is not None and classes is not None:
            shown = min(classes, columns)
            each = columns // shown
            of_class = [[i for i, label in enumerate(labels) if label == number] for number in range(shown)]
            full = min(rows, *(len(members) // each for members in of_class))
            if full:
                places = [
                    (row, number, place) for row in range(full) for number in range(shown) for place in range(each)
                ]
                return cls([of_class[number][row * each + place] for row, number, place in places], shown * each)
        return cls(range(min(count, columns * rows)), columns)

    def rows(self, count: int) -> "Chosen":
        """The first rows alone."""
        return Chosen(self.indices[: count * self.columns], self.columns)


def sheet(samples: Samples, chosen: Chosen) -> bytes:
    """A PNG of some of the samples."""
    return _png(_some(samples, chosen).grid(columns=chosen.columns))


def side_by_side(teacher: Samples, student: Samples, chosen: Chosen) -> bytes:
    """A PNG of some samples, the teacher's row above the student's of the same seeds, pair below pair.

    Small pictures are enlarged by a whole number, their pixels squares.
    """
    from PIL import Image

    above, below = (_enlarged(_some(samples, chosen).pil()) for samples in (teacher, student))
    columns = min(chosen.columns, len(above))
    width, height = above[0].size
    pair = 2 * height + GAP + APART
    size = (columns * (width + GAP) - GAP, math.ceil(len(above) / columns) * pair - APART)
    page = Image.new(above[0].mode, size, color="white")
    for index, pictures in enumerate(zip(above, below, strict=True)):
        row, column = divmod(index, columns)
        for place, picture in enumerate(pictures):
            page.paste(picture, (column * (width + GAP), row * pair + place * (height + GAP)))
    return _png(page)


def _enlarged(pictures: "list[Image]") -> "list[Image]":
    width, height = pictures[0].size
    factor = max(1, SEEN // max(width, height))
    return [picture.resize((factor * width, factor * height), 0) for picture in pictures]  # 0: the nearest pixel


def _some(samples: Samples, chosen: Chosen) -> Samples:
    kept = list(chosen.indices)
    labels = None if samples.labels is None else [float(samples.labels[i]) for i in kept]
    scales = None if samples.guidance_scales is None else [samples.guidance_scales[i] for i in kept]
    return Samples(samples.images[kept], [samples.seeds[i] for i in kept], samples.plan, labels, guidance_scales=scales)


def _png(picture: "Image") -> bytes:
    page = io.BytesIO()
    picture.save(page, format="PNG")
    return page.getvalue()

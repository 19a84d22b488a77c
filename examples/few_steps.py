"""A teacher's pictures in 50 steps, and its students' in 1, 2, 4 and 8: one picture, and how long each took.

python examples/few_steps.py [out/digits.png]                             the digits in the box
python examples/few_steps.py out/shapes.png out/students out/teacher      of your own, as `fewstep distill` names them

Where another backend than torch runs the networks, as OpenVINO does on a CPU that has it, torch's times stand beside.
"""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

import fewstep

COLUMNS, ROWS, SCALE, MARGIN, GAP = 10, 2, 2, 150, 6
TEACHER_STEPS = 50


class Took(NamedTuple):
    """How long some samples took."""

    backend: str  # what executed the network
    milliseconds: float  # an image
    first: float  # seconds of the run before: it finds the memory, and makes the network ready

    def __str__(self) -> str:
        return f"{self.short} ms an image"

    @property
    def short(self) -> str:
        """The milliseconds, in two digits or more."""
        return f"{self.milliseconds:.{2 if self.milliseconds < 1 else 1 if self.milliseconds < 10 else 0}f}"


def strip_of(samples: fewstep.Samples) -> Image.Image:
    """The samples in ROWS rows, without gaps, twice as large."""
    pictures = samples.pil()
    width, height = (SCALE * side for side in pictures[0].size)
    strip = Image.new(pictures[0].mode, (COLUMNS * width, ROWS * height))
    for place, picture in enumerate(pictures):
        larger = picture.resize((width, height), Image.Resampling.LANCZOS)
        strip.paste(larger, (place % COLUMNS * width, place // COLUMNS * height))
    return strip


def models(students: Path | None, teacher: Path | None, **how: Any) -> Iterator[tuple[int, fewstep.Engine]]:
    """Steps and an engine for each: students of a few steps, then the teacher."""
    how = {"max_batch": COLUMNS * ROWS, **how}
    for steps in (1, 2, 4, 8):
        if students is None:
            yield steps, fewstep.Engine.from_pretrained("digits", steps=steps, **how)
        elif (students / f"{steps}-step").is_dir():
            yield steps, fewstep.Engine.from_pretrained(students / f"{steps}-step", **how)
    yield TEACHER_STEPS, fewstep.Engine.from_pretrained("digits/teacher" if teacher is None else teacher, **how)


def sampled(engine: fewstep.Engine, steps: int) -> tuple[fewstep.Samples, Took]:
    """A sheet of samples, and how long they took."""
    taken = engine.model.conditions
    count = taken.count if isinstance(taken, fewstep.Classes) else 0
    labels = [place % count for place in range(COLUMNS * ROWS)] if count else None
    first = engine.sample(COLUMNS * ROWS, labels=labels, steps=steps, seeds=0)
    samples = engine.sample(COLUMNS * ROWS, labels=labels, steps=steps, seeds=0)
    return samples, Took(engine.backend, 1000 * samples.seconds / len(samples), first.seconds + first.ready_seconds)


def told(name: str, took: Took, torch: Took | None) -> str:
    """A line of the table; torch's own time is told beside that of another backend."""
    line = f"{name:18} {took} on {took.backend}"
    return (
        line
        if torch is None
        else f"{line}, {torch.short} on torch; the first {COLUMNS * ROWS} after {took.first:.1f} s"
    )


def main(path: Path, students: Path | None = None, teacher: Path | None = None) -> None:
    """Sample, print the times, write the picture."""
    strips = []
    for (steps, engine), (_, beside) in zip(
        models(students, teacher), models(students, teacher, backend="torch"), strict=True
    ):
        samples, took = sampled(engine, steps)
        name = f"{steps} step{'s' * (steps > 1)}" + (", teacher" if engine.model.trained is None else "")
        print(told(name, took, None if took.backend == "torch" else sampled(beside, steps)[1]), flush=True)
        strips.append((f"{name}\n{took}\n{took.backend}", strip_of(samples)))
    if find_spec("openvino") is None and engine.device.type == "cpu":
        print("a CPU is faster with OpenVINO: pip install 'fewstep[cpu]'")
    width, height = strips[0][1].size
    sheet = Image.new(strips[0][1].mode, (MARGIN + width, len(strips) * (height + GAP) - GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for place, (text, strip) in enumerate(strips):
        top = place * (height + GAP)
        sheet.paste(strip, (MARGIN, top))
        draw.multiline_text((8, top + height // 2), text, fill="#282828", font=font, anchor="lm", spacing=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    print(path)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:] or ["out/digits.png"]))

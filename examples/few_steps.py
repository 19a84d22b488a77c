"""A teacher's pictures in 50 steps, and its students' in 1, 2, 4 and 8: one picture, and how long each took.

python examples/few_steps.py [out/digits.png]                             the digits in the box
python examples/few_steps.py out/shapes.png out/students out/teacher      of your own, as `fewstep distill` names them
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import fewstep

COLUMNS, ROWS, SCALE, MARGIN, GAP = 10, 2, 2, 150, 6
TEACHER_STEPS = 50


def strip_of(samples: fewstep.Samples) -> Image.Image:
    """The samples in ROWS rows, without gaps, twice as large."""
    pictures = samples.pil()
    width, height = (SCALE * side for side in pictures[0].size)
    strip = Image.new(pictures[0].mode, (COLUMNS * width, ROWS * height))
    for place, picture in enumerate(pictures):
        larger = picture.resize((width, height), Image.Resampling.LANCZOS)
        strip.paste(larger, (place % COLUMNS * width, place // COLUMNS * height))
    return strip


def models(students: Path | None, teacher: Path | None) -> Iterator[tuple[int, fewstep.Engine]]:
    """Steps and an engine for each: students of a few steps, then the teacher."""
    for steps in (1, 2, 4, 8):
        if students is None:
            yield steps, fewstep.Engine.from_pretrained("digits", steps=steps)
        elif (students / f"{steps}-step").is_dir():
            yield steps, fewstep.Engine.from_pretrained(students / f"{steps}-step")
    yield TEACHER_STEPS, fewstep.Engine.from_pretrained("digits/teacher" if teacher is None else teacher)


def main(path: Path, students: Path | None = None, teacher: Path | None = None) -> None:
    """Sample, print the times, write the picture."""
    strips = []
    for steps, engine in models(students, teacher):
        taken = engine.model.conditions
        count = taken.count if isinstance(taken, fewstep.Classes) else 0
        labels = [place % count for place in range(COLUMNS * ROWS)] if count else None
        engine.sample(COLUMNS * ROWS, labels=labels, steps=steps, seeds=0)  # the first run finds the memory
        samples = engine.sample(COLUMNS * ROWS, labels=labels, steps=steps, seeds=0)
        name = f"{steps} step{'s' * (steps > 1)}" + (", teacher" if engine.model.trained is None else "")
        milliseconds = 1000 * samples.seconds / len(samples)
        took = f"{milliseconds:.{1 if milliseconds < 10 else 0}f} ms an image"
        print(f"{name:18} {took}")
        strips.append((f"{name}\n{took}", strip_of(samples)))
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

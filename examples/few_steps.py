"""Digits in 1, 2, 4 and 8 steps, beside the teacher's 50: one picture, and how long each took.

python examples/few_steps.py [out/digits.png]
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import fewstep

ROWS, SCALE, MARGIN, GAP = 2, 2, 150, 6
DIGITS = list(range(10)) * ROWS


def rows_of(samples: fewstep.Samples) -> Image.Image:
    """The samples as a strip, a column for each digit."""
    pictures = samples.pil()
    width, height = (SCALE * side for side in pictures[0].size)
    strip = Image.new("L", (10 * width, ROWS * height))
    for place, picture in enumerate(pictures):
        strip.paste(
            picture.resize((width, height), Image.Resampling.LANCZOS), (place % 10 * width, place // 10 * height)
        )
    return strip


def main(path: Path) -> None:
    """Sample, print the times, write the picture."""
    strips = []
    for steps in (1, 2, 4, 8, 50):
        engine = fewstep.Engine.from_pretrained("digits", steps=steps)
        engine.sample(labels=DIGITS, steps=steps, seeds=0)  # the first run finds the memory
        samples = engine.sample(labels=DIGITS, steps=steps, seeds=0)
        name = f"{steps} step{'s' * (steps > 1)}" + (", teacher" if engine.model.trained is None else "")
        milliseconds = 1000 * samples.seconds / len(samples)
        took = f"{milliseconds:.{1 if milliseconds < 10 else 0}f} ms an image"
        print(f"{name:18} {took}")
        strips.append((f"{name}\n{took}", rows_of(samples)))
    width, height = strips[0][1].size
    sheet = Image.new("L", (MARGIN + width, len(strips) * (height + GAP) - GAP), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for place, (text, strip) in enumerate(strips):
        top = place * (height + GAP)
        sheet.paste(strip, (MARGIN, top))
        draw.multiline_text((8, top + height // 2), text, fill=40, font=font, anchor="lm", spacing=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    print(path)


if __name__ == "__main__":
    main(Path(*(sys.argv[1:] or ["out/digits.png"])))

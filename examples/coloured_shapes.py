"""Pictures to learn from, as you may have them: circles, squares and triangles, in a folder for each class.

python examples/coloured_shapes.py [out/shapes] [60]

Half are PNGs and half JPEGs. docs/training.md goes on from here: train, distill, evaluate, generate --labels circle.
"""

import colorsys
import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

SIDE, FINER = 32, 8  # pixels of a picture; drawn so many times larger, then scaled, which smooths its edges
CORNERS = {"circle": 64, "square": 4, "triangle": 3}


def shape(corners: int, draw: random.Random) -> Image.Image:
    """A regular polygon of some colour, size, place and turn, on a pale ground of another colour."""
    hue = draw.random()
    ground = colour((hue + draw.uniform(0.25, 0.75)) % 1, draw.uniform(0.05, 0.25), draw.uniform(0.85, 1))
    side = SIDE * FINER
    radius = side * draw.uniform(0.22, 0.36)
    centre = [side / 2 + draw.uniform(-0.1, 0.1) * side for _ in range(2)]
    turn = draw.uniform(0, 2 * math.pi)
    angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
    picture = Image.new("RGB", (side, side), ground)
    ImageDraw.Draw(picture).polygon(
        [(centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)) for angle in angles],
        fill=colour(hue, draw.uniform(0.6, 1), draw.uniform(0.45, 0.95)),
    )
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    """In bytes."""
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def main(folder: Path, count: int) -> None:
    """Draw `count` pictures, the same ones each time."""
    draw = random.Random(0)
    for index in range(count):
        name = list(CORNERS)[index % len(CORNERS)]
        path = folder / name / f"{index:05d}.{'png' if draw.random() < 0.5 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape(CORNERS[name], draw).save(path, quality=95)
    print(f"{count} pictures of {len(CORNERS)} classes in {folder}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(Path(arguments[0] if arguments else "out/shapes"), int(arguments[1]) if len(arguments) > 1 else 60)

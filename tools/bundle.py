"""Puts trained models into the box: weights as float16, and their scores on the card.

    python tools/bundle.py FOLDER NAME

FOLDER holds one model folder for each member (teacher, 8-step, ...), each with the evaluate/evaluate.json that
`fewstep evaluate MEMBER --out MEMBER/evaluate` wrote; they become engine/fewstep/bundled/NAME/MEMBER.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewstep.models.bundled import BUNDLED, SPEC_FILE
from fewstep.models.load import load_model, save_model

MAX_BYTES = 24e6  # of all that is in the box


def scores(result: dict[str, Any]) -> list[str]:
    """A line for each number of steps of an evaluate.json; what a set was too small for is left out."""
    settings, real = result["settings"], result["real"]["frechet"]
    scale = settings["guidance_scale"]
    guided = "" if scale in (None, 1.0) else f", guidance {scale:g}"
    lines = []
    for row in result["rows"]:
        found = []
        if row["frechet"] is not None and real:
            found.append(f"Frechet distance {row['frechet']:.2f} ({row['frechet'] / real:.2f} of real digits')")
        if row["accuracy"] is not None:
            found.append(f"class accuracy {100 * row['accuracy']:.2f} %")
        found.append(f"on {settings['n']:,} samples")
        how = f"scores: {row['sampler']}, {_counted(row['steps'])}{guided}"
        lines.append(f"{how}: {', '.join(found)}, seeds from {settings['seed']}")
    return lines


def _counted(steps: int) -> str:
    return f"{steps} step{'s' * (steps > 1)}"


def bundle(source: Path, target: Path) -> None:
    """One member."""
    unet, spec = load_model(source)
    lines = []
    for path in sorted(source.glob("evaluate*/evaluate.json")):
        lines += scores(json.loads(path.read_text()))
    notes = (*(note for note in spec.notes if not note.startswith("scores: ")), *lines)
    save_model(
        target,
        unet.to(torch.float16),
        replace(spec, name=f"{target.parent.name}/{target.name}", notes=notes),
        overwrite=True,
    )
    print(f"{target}: {sum(file.stat().st_size for file in target.iterdir()) / 1e6:.2f} MB", *lines, sep="\n  ")


def main(folder: Path, name: str) -> None:
    """Every member of the folder."""
    for source in sorted(path.parent for path in folder.glob(f"*/{SPEC_FILE}")):
        bundle(source, BUNDLED / name / source.name)
    total = sum(path.stat().st_size for path in BUNDLED.rglob("*") if path.is_file())
    print(f"in the box: {total / 1e6:.2f} MB")
    if total > MAX_BYTES:
        sys.exit(f"more than {MAX_BYTES / 1e6:.0f} MB")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2])

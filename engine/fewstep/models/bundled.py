"""Names of models: which folder a name and a number of steps stand for, above all those in the box."""

import os
from pathlib import Path
from typing import Final

from fewstep.checks import integer
from fewstep.diffusion.trained import MAX_STEPS
from fewstep.errors import ModelError
from fewstep.fields import read_json
from fewstep.models.hub import cached, how_to_get, is_id, meant_by, snapshot

BUNDLED: Final = Path(__file__).resolve().parent.parent / "bundled"
SPEC_FILE: Final = "fewstep.json"
DEFAULT_STEPS: Final = 4


def model_folder(model: str | Path, steps: int | None = None) -> Path:
    """The folder of a model, or the file that it is.

    Args:
        model: a folder or a file; the name of a model in the box, "digits" for the one that suits the steps, or one of
            its members, such as "digits/teacher"; or a name on the Hugging Face hub, such as
            "google/ddpm-cifar10-32", of a model that lies in its cache already. A folder of that name comes first, then
            the box. A folder of the cache, models--google--ddpm-cifar10-32, stands for its snapshot.
        steps: model calls a sample; DEFAULT_STEPS unless given. The student trained for as many is chosen, else the
            one for the next larger number, and the teacher beyond them all.

    Raises:
        ModelError: a name that is neither.
        ArgumentError: steps that are no positive integer.
    """
    wanted = DEFAULT_STEPS if steps is None else integer("steps", steps, 1, MAX_STEPS)
    if model == "":  # which a path takes for the folder it runs in
        raise ModelError("'': names no folder; allowed: '.' for the one you are in")
    path = Path(model)
    if os.path.isdir(path):  # where Path.is_dir raises for a name that is too long to be one
        return snapshot(path)
    if os.path.isfile(path):
        return path
    box = _inside(str(model))
    if box is None:
        found = cached(str(model))
        if found is not None:
            return found
        if meant := meant_by(str(model)):
            here = "is in the cache" if cached(meant) else how_to_get(meant).replace("nor ", "is not ", 1)
            raise ModelError(f"{model}: no such folder; a model of the hub is given by its name, {meant}, which {here}")
        boxes = [name for name in names() if "/" not in name]
        # What begins with a folder that is there, or with a box, was meant to be found there.
        of_the_hub = is_id(str(model)) and path.parts[0] not in boxes and not Path(path.parts[0]).is_dir()
        where = f"no such folder, {how_to_get(str(model))}" if of_the_hub else "no such folder"
        raise ModelError(f"{path}: {where}; in the box: {', '.join(boxes) or 'nothing'}")
    if (box / SPEC_FILE).is_file():
        return box
    students, teachers = [], []
    for folder in _members(box):
        trained = read_json(folder / SPEC_FILE).get("trained")
        if trained is None:
            teachers.append(folder)
        else:
            students += [(count, folder) for count in trained["steps"]]
    suitable = sorted(student for student in students if student[0] >= wanted)
    return suitable[0][1] if suitable else teachers[0]


def names() -> list[str]:
    """Of the models in the box and their members: digits, digits/1-step, ..."""
    found = []
    for box in sorted(BUNDLED.iterdir()) if BUNDLED.is_dir() else []:
        members = _members(box)
        found += [box.name, *(f"{box.name}/{member.name}" for member in members)] if members else []
    return found


def _inside(name: str) -> Path | None:
    return BUNDLED / name if name in names() else None


def _members(box: Path) -> list[Path]:
    return sorted(folder for folder in box.iterdir() if (folder / SPEC_FILE).is_file())

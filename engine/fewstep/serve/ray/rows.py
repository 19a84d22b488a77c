"""The rows of a set: what each says of its image, what the image's file is called, and how it is known again."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fewstep.checks import nearest, whole
from fewstep.errors import ArgumentError, reason_of

# The columns that a table may have, and the word of `Engine.sample` that each is.
WORDS: Final = {
    "label": "labels",
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "seed": "seeds",
    "steps": "steps",
    "sampler": "sampler",
    "guidance_scale": "guidance_scale",
}
COLUMNS: Final = ("id", *WORDS)
NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
TEXT: Final = "fewstep_row"  # of a PNG: the row that it was drawn for, in JSON

HOW: Final = ("device", "backend", "threads", "max_batch", "runner")  # not what is drawn
END: Final = b"IEND\xaeB`\x82"  # the last bytes of a PNG


@dataclass(frozen=True)
class Job:
    """What all rows of a set share.

    Attributes:
        model: as `Family.open` takes it.
        engine: options of `Engine.from_pretrained`, as text and numbers.
        images: the folder of the pictures, as every node finds it.
        seed: of the row with the id 0; other ids give others.
    """

    model: str
    engine: Mapping[str, Any]
    images: str
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One image to be.

    Attributes:
        id: by which its file is named.
        words: of `Engine.sample`, one value each; a seed is always among them.
        text: all of it and what the model is, as it stands in the PNG.
        path: of the PNG.
    """

    id: str
    words: Mapping[str, Any]
    text: str
    path: Path

    def is_done(self) -> bool:
        """Whether its picture is there.

        Raises:
            ArgumentError: a picture is there that was drawn for another row, or by another model.
        """
        from PIL import Image

        try:
            with Image.open(self.path) as picture:
                said = picture.info.get(TEXT)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ArgumentError("out", str(self.path), f"pictures of these rows; {reason_of(error)}") from error
        if said != self.text:
            allowed = f"a folder without it, or the row that it was drawn for, {said}"
            raise ArgumentError("out", str(self.path), allowed)
        return True

    def record(self) -> dict[str, Any]:
        """What the manifest says of it.

        Raises:
            ArgumentError: its file is not whole, or another row's.
        """
        from PIL import Image

        if not self.is_done():
            raise ArgumentError("out", str(self.path), "a picture for every row; it has gone")
        content = self.path.read_bytes()
        try:
            with Image.open(self.path) as picture:
                picture.load()
                width, height = picture.size
        except (OSError, SyntaxError) as error:
            raise ArgumentError("out", str(self.path), f"whole pictures; {error}") from error
        if not content.endswith(END):  # which no decoder of ours misses
            raise ArgumentError("out", str(self.path), "whole pictures; its end is missing")
        digest = hashlib.sha256(content).hexdigest()
        said = {"id": self.id, "file": f"{self.path.parent.name}/{self.path.name}", "width": width, "height": height}
        return {**said, "sha256": digest, **json.loads(self.text)}


def rows_of(records: list[dict[str, Any]], job: Job) -> Iterator[Row]:
    """The rows of a table, of which a column that is empty says nothing.

    Raises:
        ArgumentError: an id that names no file, or a seed that is none.
    """
    for record in records:
        name = name_of(record["id"])
        words = {WORDS[column]: value for column, value in record.items() if column in WORDS and value is not None}
        words.setdefault("seeds", seed_of(record["id"], job.seed))
        engine = {word: value for word, value in sorted(job.engine.items()) if word not in HOW}
        said = {"model": job.model, **{word: words[word] for word in sorted(words)}, **engine}
        yield Row(name, words, json.dumps(said), Path(job.images) / f"{name}.png")


def check_columns(names: list[str]) -> None:
    """ArgumentError unless a table has an id, and nothing else than `COLUMNS`."""
    if "id" not in names:
        raise ArgumentError("rows", f"the columns {', '.join(names)}", "a column id, by which the pictures are named")
    for name in names:
        if name not in COLUMNS:
            near = nearest(COLUMNS, name)
            hint = f"; did you mean {near}?" if near else ""
            raise ArgumentError("rows", f"a column {name}", f"{', '.join(COLUMNS)}{hint}")


def name_of(given: object) -> str:
    """What the file of an id is called, without its suffix.

    Raises:
        ArgumentError: it is no whole number, and no text that is safe as a name on every system.
    """
    name = str(given) if isinstance(given, str) else "" if whole(given) is None else str(whole(given))
    if not NAME.fullmatch(name):
        raise ArgumentError("id", given, "a whole number, or up to 200 of A-Z a-z 0-9 . _ -, the first of them no dot")
    return name


def seed_of(given: object, seed: int) -> int:
    """Of a row that says none: its number further than `seed`, or for a text a number that follows from both."""
    number = whole(given)
    if number is not None and number >= 0 and not isinstance(given, str):
        return (seed + number) % (1 << 64)
    return int.from_bytes(hashlib.blake2b(f"{seed} {given}".encode(), digest_size=8).digest()) >> 1

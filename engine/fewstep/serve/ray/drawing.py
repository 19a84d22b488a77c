"""The actor that draws the rows of a set, a batch at a time."""

import io
import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from fewstep.errors import FewstepError
from fewstep.files import atomic_write
from fewstep.results import Samples
from fewstep.serve.family import Family, Member
from fewstep.serve.ray.dtypes import dtype_of
from fewstep.serve.ray.rows import TEXT, Job, Row, rows_of

Table: TypeAlias = Any
"""Of pyarrow, which ships no types."""


class Drawing:
    """Ray Data makes as many as there are to be, and another one for one that dies.

    Args:
        job: what all rows share.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._family = Family.open(job.model, job.model, **{**job.engine, "dtype": dtype_of(job.engine.get("dtype"))})

    def __call__(self, batch: Table) -> dict[str, list[str]]:
        """Draw and write what is not there yet.

        Args:
            batch: rows.

        Returns:
            The id of each row, and what is wrong with it; "" for a row whose picture is written.
        """
        rows = list(rows_of(batch.to_pylist(), self._job))
        wrong = dict.fromkeys((row.id for row in rows), "")
        for part in _alike(self._family, (row for row in rows if not row.is_done())):
            wrong |= self._drawn(*part)
        return {"id": list(wrong), "wrong": list(wrong.values())}

    def _drawn(self, member: Member, rows: Sequence[Row]) -> dict[str, str]:
        words: dict[str, Any] = {word: [row.words[word] for row in rows] for word in rows[0].words}
        try:
            samples = member.engine.sample(**words)
        except FewstepError as error:
            if len(rows) == 1:
                return {rows[0].id: str(error)}
            return {name: wrong for row in rows for name, wrong in self._drawn(member, [row]).items()}
        finite = [bool(image.isfinite().all()) for image in samples.images]
        for place, row in enumerate(rows):
            if finite[place]:
                with atomic_write(row.path) as file:
                    file.write(_png(samples, place, row))
        return {row.id: "" if finite[place] else "the image is not finite" for place, row in enumerate(rows)}


def missing(batch: Table, job: Job) -> Table:
    """The rows of a batch that have no picture yet."""
    return batch.filter([not row.is_done() for row in rows_of(batch.to_pylist(), job)])


def recorded(batch: Table, job: Job) -> dict[str, list[Any]]:
    """What the manifest says of each row of a batch that has a picture, once every byte of it has been read."""
    rows = [row for row in rows_of(batch.to_pylist(), job) if row.path.exists()]
    return {"id": [row.id for row in rows], "record": [json.dumps(row.record()) for row in rows]}


def _alike(family: Family, rows: Iterable[Row]) -> list[tuple[Member, list[Row]]]:
    """Rows that are one request: of one member, and with the same words said."""
    groups: dict[tuple[str, tuple[str, ...]], tuple[Member, list[Row]]] = {}
    for row in rows:
        steps = row.words.get("steps")
        member = family.member(steps if isinstance(steps, int) else None)
        groups.setdefault((member.name, tuple(row.words)), (member, []))[1].append(row)
    return list(groups.values())


def _png(samples: Samples, place: int, row: Row) -> bytes:
    from PIL import Image, PngImagePlugin

    images = samples.images[place : place + 1]
    picture: Image.Image = Samples(images, samples.seeds[place : place + 1], samples.plans[place]).pil()[0]
    text = PngImagePlugin.PngInfo()
    for name, value in {**samples.parameters_of(place), TEXT: row.text}.items():
        text.add_itxt(name, value)
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=text)
    return file.getvalue()

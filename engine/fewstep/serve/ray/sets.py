"""A set of images offline, on all machines of a Ray cluster: one PNG for each row of a table, and a manifest."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import ray
from ray.data import ActorPoolStrategy, Dataset

from fewstep.checks import integer
from fewstep.errors import ArgumentError, FewstepError, some_of
from fewstep.files import atomic_write
from fewstep.serve.ray.drawing import Drawing, missing, recorded
from fewstep.serve.ray.dtypes import dtype_of
from fewstep.serve.ray.rows import Job, check_columns, name_of

Rows: TypeAlias = "int | str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Dataset"
READERS: Final = {".parquet": "read_parquet", ".jsonl": "read_json", ".csv": "read_csv"}
IMAGES, MANIFEST = "images", "manifest.jsonl"
SHOWN: Final = 3  # ids in a message


@dataclass(frozen=True)
class Workers:
    """Who draws.

    Attributes:
        actors: how many, each with an engine.
        batch: rows that one draws together.
        num_gpus, num_cpus: of each; it runs on a CPU where the first is 0.
    """

    actors: int = 1
    batch: int = 16
    num_gpus: float = 0
    num_cpus: float = 1


@dataclass(frozen=True)
class SetReport:
    """What there is.

    Attributes:
        rows: of the table.
        drawn: in this run.
        found: drawn by an earlier one.
        wrong: why a row has no image, by its id; empty where all is well.
    """

    rows: int
    drawn: int
    found: int
    wrong: Mapping[str, str] = field(default_factory=dict)


def sample_set(
    rows: Rows,
    model: str,
    out: str | os.PathLike[str],
    *,
    workers: Workers | None = None,
    seed: int = 0,
    engine: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> SetReport:
    """Draw one image for each row into `out`/images/ID.png, and write `out`/manifest.jsonl, a line for each row.

    A picture appears whole or not at all and carries its row as PNG text. Rows whose pictures are there are not drawn
    again, so that a second run goes on where the first was stopped. At the end every picture is read back.

    Args:
        rows: a file of Parquet, JSON lines or CSV; a number n for the ids 0 to n - 1; a list; or a Ray dataset.
            Columns: id, and where it is to be said label, prompt, negative_prompt, seed, steps, sampler and
            guidance_scale.
        model: as `Engine.from_pretrained` takes it; found at the same place on every node.
        out: a folder that all nodes see.
        workers: who draws.
        seed: for rows without one: a row with a number for an id has the seed `seed` + id.
        engine: options of `Engine.from_pretrained`, as text and numbers. Unless it says otherwise the engine is batch
            invariant: an image's bits do not depend on which rows were drawn together.
        progress: called with how many rows there are pictures of, and how many rows.

    Raises:
        ArgumentError: columns, ids, or pictures in `out` that are not of these rows.
        ray.exceptions.RayError: what went wrong on the cluster beyond dying actors, which are replaced.
    """
    who, folder = workers or Workers(), Path(os.path.abspath(out))
    job = _job(model, folder / IMAGES, seed, engine or {}, who)
    table = dataset_of(rows)
    check_columns(list(table.schema().names))
    ids = _ids(table)
    found = _found(folder / IMAGES, set(ids))
    progress(found, len(ids))

    light = min(1, who.num_cpus)
    left = _mapped(table, partial(missing, job=job), num_cpus=light) if found else table
    drawn = _mapped(
        left,
        Drawing,
        fn_constructor_args=(job,),
        batch_size=who.batch,
        num_gpus=who.num_gpus or None,
        num_cpus=None if who.num_gpus else who.num_cpus,
        compute=ActorPoolStrategy(size=who.actors),
    )
    wrong: dict[str, str] = {}
    count = 0
    for each in _batches(drawn):
        count += len(each)
        wrong |= {row["id"]: row["wrong"] for row in each if row["wrong"]}
        progress(found + count, len(ids))

    records: dict[str, str] = {}
    for each in _batches(_mapped(table, partial(recorded, job=job), num_cpus=light)):
        records |= {row["id"]: row["record"] for row in each}
    lost = [name for name in ids if name not in records and name not in wrong]
    if lost:
        raise FewstepError(f"{folder}: rows without a picture after the run: {some_of(lost, SHOWN)}; run it again")
    with atomic_write(folder / MANIFEST) as file:
        file.writelines(f"{records[name]}\n".encode() for name in ids if name in records)
    return SetReport(len(ids), count - len(wrong), found, wrong)


def dataset_of(rows: Rows) -> Dataset:
    """The rows as a Ray dataset.

    Raises:
        ArgumentError: a file that is missing or of another kind, or no rows.
    """
    if isinstance(rows, Dataset):
        return rows
    if isinstance(rows, int):
        numbers: Dataset = ray.data.range(integer("rows", rows, 1, 1 << 40))
        return numbers
    if isinstance(rows, str | os.PathLike):
        path = Path(rows)
        reader = READERS.get(path.suffix.lower())
        if reader is None or not path.exists():
            raise ArgumentError("rows", os.fspath(rows), f"a number, or a file that ends in {', '.join(READERS)}")
        table: Dataset = getattr(ray.data, reader)(os.path.abspath(path))
        return table
    if not rows:
        raise ArgumentError("rows", rows, "at least one row")
    names = dict.fromkeys(name for row in rows for name in row)  # of all: Arrow takes the first row's
    listed: Dataset = ray.data.from_items([{name: row.get(name) for name in names} for row in rows])
    return listed


def _mapped(table: Dataset, function: Any, **options: Any) -> Dataset:
    mapped: Dataset = table.map_batches(function, batch_format="pyarrow", **options)
    return mapped


def _batches(table: Dataset) -> Iterator[list[dict[str, Any]]]:
    for batch in table.iter_batches(batch_size=None, batch_format="pyarrow"):
        rows: Any = batch
        yield rows.to_pylist()


def _job(model: str, images: Path, seed: int, engine: Mapping[str, Any], who: Workers) -> Job:
    for name in ("actors", "batch"):
        integer(name, getattr(who, name), 1, 1 << 16)
    device = {"device": "cuda" if who.num_gpus else "cpu"}
    options = {**device, "batch_invariant": True, "max_batch": who.batch, **engine}
    dtype_of(options.get("dtype"))
    images.mkdir(parents=True, exist_ok=True)
    return Job(model, options, str(images), integer("seed", seed, 0, (1 << 64) - 1))


def _ids(table: Dataset) -> list[str]:
    ids: list[str] = []
    for each in _batches(table.select_columns(["id"])):
        ids += [name_of(row["id"]) for row in each]
    if not ids:
        raise ArgumentError("rows", "a table without rows", "at least one row")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = [name for name in ids if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        raise ArgumentError("rows", f"the id {some_of(twice, SHOWN)} more than once", "an id of its own for each row")
    return sorted(ids, key=lambda name: (len(name), name))  # Ray keeps no order


def _found(images: Path, ids: set[str]) -> int:
    """How many pictures are there; ArgumentError for one that is no row's."""
    names = [name.removesuffix(".png") for name in os.listdir(images) if name.endswith(".png")]
    strange = sorted(set(names) - ids)
    if strange:
        allowed = "an empty folder, or one with pictures of these rows alone"
        raise ArgumentError("out", f"{images} with {some_of([f'{name}.png' for name in strange], SHOWN)}", allowed)
    return len(names)

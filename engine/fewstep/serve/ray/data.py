"""A set of images offline, on all machines of a Ray cluster: one PNG for each row of a table, and a manifest.

    python -m fewstep.serve.ray.data rows.parquet --model digits --out out/set

A job that was stopped, or whose actors were killed, is started again with the same words and draws what is missing.
In Python it is `sample_set`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from fewstep.errors import FewstepError
from fewstep.serve.ray.rows import COLUMNS
from fewstep.serve.ray.sets import SetReport, Workers, sample_set

__all__ = ["SetReport", "Workers", "main", "sample_set"]


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        "python -m fewstep.serve.ray.data",
        description="Draw one PNG for each row of a table, on a Ray cluster; what is there already is not drawn again.",
        epilog=f"Columns: {', '.join(COLUMNS)}. Without RAY_ADDRESS a cluster is started on this machine.",
    )
    parser.add_argument("rows", help="rows.parquet, rows.jsonl or rows.csv; or a number n for the ids 0 to n - 1")
    parser.add_argument("--model", default="digits", help="a model in the box, or a folder (default: digits)")
    parser.add_argument("--out", required=True, help="a folder that all nodes see: OUT/images, OUT/manifest.jsonl")
    parser.add_argument("--actors", type=int, default=1, help="engines that draw at once (default: 1)")
    parser.add_argument("--batch", type=int, default=16, help="rows that an engine draws together (default: 16)")
    parser.add_argument("--gpus", type=float, default=0, help="of each actor; 0 for a CPU (default: 0)")
    parser.add_argument("--cpus", type=float, default=1, help="of each actor without a GPU (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="a row without a seed has SEED + id (default: 0)")
    parser.add_argument(
        "--engine", default="{}", help="""more of the engine, in JSON, such as '{"dtype": "bfloat16"}'"""
    )
    said = parser.parse_args(words)
    try:
        engine = json.loads(said.engine)
        if not isinstance(engine, dict):
            raise ValueError
    except ValueError:
        parser.error(f'--engine: got {said.engine}; allowed: JSON such as {{"dtype": "bfloat16"}}')
    workers = Workers(said.actors, said.batch, said.gpus, said.cpus)
    rows = int(said.rows) if said.rows.isdigit() else said.rows
    try:
        report = sample_set(
            rows, said.model, said.out, workers=workers, seed=said.seed, engine=engine, progress=_telling()
        )
    except FewstepError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for name, wrong in report.wrong.items():
        sys.stderr.write(f"{name}: {wrong}\n")
    counts = f"{report.drawn} drawn, {report.found} found, {len(report.wrong)} without an image"
    sys.stdout.write(f"{report.rows} rows: {counts}\n")
    return 1 if report.wrong else 0


def _telling() -> Callable[[int, int], None]:
    """Says each percent once."""
    said = -1

    def tell(done: int, of: int) -> None:
        nonlocal said
        if done * 100 // of > said:
            said = done * 100 // of
            sys.stderr.write(f"{done} of {of} rows\n")

    return tell


if __name__ == "__main__":
    sys.exit(main())

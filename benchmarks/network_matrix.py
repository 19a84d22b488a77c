"""The matrix of networks on an NVIDIA GPU, cell by cell: what one call does not finish, the next goes on with.

    python benchmarks/network_matrix.py --out build/matrix             at most 440 s; again, until no cell is left
    python benchmarks/network_matrix.py --out build/matrix --dry-run   on a CPU, tiny networks of the same kinds

It is `fewstep bench --full` on CUDA in bfloat16, without cold starts: every network beside diffusers, torch.compile and
the others, the images of each checked before it is timed. max-autotune takes minutes a shape, so it runs at one shape
of each network. Cells lie in STEM-cells; a network that does not fit, is not there or ends its process is named.
STEM.json is the report, and what `fewstep bench --compare` reads.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from measure import NOT_RUN, script_options

from fewstep.bench.contenders import BARE, DIFFUSERS, ENGINE
from fewstep.bench.matrix import RUNS, Asked, Race, everything
from fewstep.bench.results import MEASURED, Report
from fewstep.bench.runs import Runs
from fewstep.files import AtomicFiles

SECONDS = 440.0  # of a call, within the time limit of the part
PATIENCE = 420.0  # of a cell, with all that is compiled for it
NETWORKS = ("cifar10-ddpm", "digits", "policy", "sd15", "adm64", "cifar10-edm", "terrain", "sdxl", "sd21")
TINY = ("cifar10-ddpm/tiny", "sdxl/tiny")


def races(dry_run: bool) -> list[Race]:
    """What is measured: those of a dry run are small enough for a minute on a busy CPU."""
    if not dry_run:
        return everything(Asked(networks=NETWORKS, dtypes=("bfloat16",), seconds=2.0, cold=False), "cuda")
    few = Asked(networks=TINY, steps=(1, 2), batches=(1,), samplers=("ddim",), repeats=1, cold=False)
    return everything(replace(few, dtypes=("float32",), backends=("torch",), beside=(DIFFUSERS, BARE)), "cpu")


def checks(report: Report) -> dict[str, int]:
    """The engine's cells: its images are right, or they are not."""
    rows = [row for row in report.rows if row.kind == ENGINE]
    passed = sum(row.status == MEASURED for row in rows)
    return {"passed": passed, "failed": sum(row.status.startswith("wrong") for row in rows)}


def save(stem: Path, report: Report, found: dict[str, int], not_run: list[str]) -> None:
    """STEM.json and STEM.csv, both or none."""
    data = {**report.to_dict(), "checks": found, "not_run": not_run}
    with AtomicFiles() as files:
        files.open(f"{stem}.json").write(json.dumps(data, indent=1, default=str).encode() + b"\n")
        files.open(f"{stem}.csv").write(report.to_csv().encode())


def main() -> int:
    """0 where every cell is measured, 1 where an image is wrong, 77 while cells are left."""
    options = script_options(__doc__.splitlines()[0], seconds=SECONDS)
    stem = options.out or Path("build/matrix")
    folder = stem.with_name(f"{stem.name}-cells")
    runs = Runs(
        races(options.dry_run),
        1 if options.dry_run else RUNS,
        folder,
        options.device.type,
        seconds=options.seconds,
        patience=PATIENCE,
    )
    print(runs.plan(), flush=True)
    runs.go(tell=lambda text: print(text, flush=True))
    report, left = runs.report(), runs.left()
    found = checks(report)
    not_run = [f"{left} of {runs.total} cells are left; the next call goes on"] if left else []
    save(stem, report, found, not_run)
    print(report.advice)
    return 1 if found["failed"] else NOT_RUN if left or not found["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())

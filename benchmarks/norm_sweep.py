"""Launch settings of group_norm_silu: those that the library chooses by shape, beside all others of a grid.

    python benchmarks/norm_sweep.py --out build/norm_sweep      on an NVIDIA GPU
    python benchmarks/norm_sweep.py --dry-run                   on a CPU, a small map, two settings, interpreted

The maps are those of `ops.py`, in bfloat16, and so are parity and clock: what is further from float64 than torch's own
allows has no time, and the settings of a map are timed in turn, each captured in a CUDA graph, the cache overwritten
before every call. `of_chosen` is a time over that of the library's settings in the same round.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from measure import Report, captured, describe, flusher, in_turn, put_kernels_in_place, script_options
from op_cases import OPS, OpCase
from op_parity import Parity
from op_rows import described, timing

OP = "group_norm_silu"
GRID: dict[str, tuple[int, ...]] = {
    "_TILE": (2048, 4096, 8192),
    "_SLABS": (64, 128, 256),
    "_SLOTS": (1024, 2048),
    "_WHOLE_BYTES": (8192, 32768),
    "_DEPENDENT": (False, True),
}
ROUNDS, MAP_SECONDS = 25, 2.0

Values = tuple[int, ...]


@contextmanager
def settings(values: Values) -> Iterator[None]:
    """The kernel's launches by these, for as long as this lasts."""
    from fewstep_kernels.fused import norms

    before = chosen()
    try:
        _set(norms, values)
        yield
    finally:
        _set(norms, before)


def chosen() -> Values:
    """What the library has."""
    from fewstep_kernels.fused import norms

    return tuple(getattr(norms, name) for name in GRID)


def _set(norms: Any, values: Values) -> None:
    for name, value in zip(GRID, values, strict=True):
        setattr(norms, name, value)
    norms.settings.cache_clear()


def sweep(case: OpCase, report: Report, device: torch.device) -> str:
    """All settings of one map: their rows, and the best of them in a line."""
    work, gpu, own = case.work(device), device.type == "cuda", chosen()
    parity = Parity.of(work)
    grid = list(itertools.product(*GRID.values())) if gpu else [tuple(each[0] for each in GRID.values())]
    runs: dict[Values, Callable[[], object]] = {}
    for values in dict.fromkeys((own, *grid)):
        with settings(values):
            why_not = parity.why_not(parity.errors(work, work.ours))
            if report.check(f"{case}, {values}: {why_not}", not why_not):
                runs[values] = captured(work.ours, 1).replay if gpu else under(values, work.ours)
    if own not in runs:
        return f"{case.place:<22}not timed"
    named = {str(values): run for values, run in runs.items()}
    times = in_turn(named, device, ROUNDS if gpu else 2, MAP_SECONDS, flusher(device))
    rows = []
    for values in runs:
        row = timing(times[str(values)], times[str(own)])
        over = {name.replace("ratio", "of_chosen"): row.pop(name) for name in ("ratio", "ratio_low", "ratio_high")}
        rows.append(described(case) | shown(values) | {"chosen": values == own} | over | row)
    report.rows += rows
    best, mine = min(rows, key=lambda row: float(row["median_us"])), rows[0]
    found = {name: best[name] for name in shown(own)}
    return f"{case.place:<22}{mine['median_us']:8.1f} us; best {best['median_us']:8.1f} us with {found}"


def under(values: Values, call: Callable[[], object]) -> Callable[[], object]:
    """A call by these settings, where no graph holds them."""

    def run() -> None:
        with settings(values):
            call()

    return run


def shown(values: Values) -> dict[str, int]:
    """As columns."""
    return {name.strip("_").lower(): int(value) for name, value in zip(GRID, values, strict=True)}


def main() -> int:
    """All maps."""
    options = script_options(__doc__.splitlines()[0])
    put_kernels_in_place(options.device.type)
    report, op = Report(options.out, describe(options.device)), OPS[OP]
    shapes = {"tiny": op.tiny} if options.dry_run else op.shapes
    dtype = torch.float32 if options.dry_run else torch.bfloat16
    for place, shape in shapes.items():
        with torch.no_grad():
            print(sweep(OpCase(OP, place, shape, dtype), report, options.device), flush=True)
        report.save()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())

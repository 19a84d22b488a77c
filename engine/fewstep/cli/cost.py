"""`fewstep info --cost` as a page of Markdown, which a terminal shows as well as a file."""

import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fewstep.cli.shared import emit, plain, write_out
from fewstep.cost import PRESETS, Cost, Report, Row, SubjectReport, folder_subject, report
from fewstep.cost.report import mean, versions

WIDTH = 160  # wide enough that no cell is folded
COLUMNS = ("launches", "kB", "syncs")
BETWEEN = "between two calls"
PRODUCTS = re.compile(r"::(mm|addmm|bmm|convolution|attention|attention_laid_out)(\.|$)")
INTRODUCTION = """\
# What a step costs apart from arithmetic

Launches, bytes read and written, and syncs (the host waits for the GPU) between two calls of the network: means over
the steps of a run. They are counted on tensors without memory: no GPU is needed, and nothing here is a time.
`fewstep info --cost` prints this page; docs/cost.md is what it prints with the versions named below."""
NOTES = """\
## How it is counted

- **A launch** is an op on a device tensor, unless it only makes a view or allocates. An op of ours counts what its
  Triton kernels launch: `group_norm_silu` lists one or two by the shape, every other op of a step is one. Attention
  is one, a convolution with bias two and torch's group norm three, as torch launches them. Any other op of torch counts
  as one even where it is several (a reduction, `nonzero`), so the numbers of diffusers are a lower bound.
- **Bytes** are those of each distinct tensor an op reads and of each it writes, whole and once, however often its
  kernel passes over it; one updated in place counts twice. What stays in a cache is not deducted.
- **A sync** is the host waiting for the device: `.item()`, an `if` on a device tensor, a device tensor as an index into
  a table on the host, `nonzero`, a blocking copy. A value that is read back counts as a sync and not as a launch.
- Tables and 0-dim tensors on the host cost host work and none of the above. diffusers keeps alphas_cumprod and sigmas
  there, and its pipelines put the timesteps on the device: so the comparisons and sums of timesteps are launches.
- **A step** here is all outside the network: the engine's `begin_step`, `denoise_step` and, for rescale,
  `step_statistics`; in diffusers' loop the doubling of the batch, `scale_model_input`, guidance, `scheduler.step` and
  its noise. Neither clips. Setting up a run is not counted, but what a scheduler puts off until its first step is.
- A CUDA graph replays launches without the host's work for each of them. It cannot hold a sync."""


def show_cost(
    folder: Path | None, steps: int | None, batch: int | None, guidance_scale: float | None, *, as_json: bool
) -> None:
    """Print the cost of a step of the model in a folder, of the preset of that name, or of all presets."""
    if folder is None:
        subjects = [make() for make in PRESETS.values()]
    elif str(folder) in PRESETS and not folder.exists():
        subjects = [PRESETS[str(folder)]()]
    else:
        subjects = [folder_subject(folder)]
    counted = report(
        subjects, 4 if steps is None else steps, 1 if batch is None else batch, guidance_scale=guidance_scale
    )
    if as_json:
        emit(counted.to_dict())
    else:
        write_out(page(counted))


def page(counted: Report) -> str:
    """The report as Markdown."""
    names = ", ".join(f"{name} {version}" for name, version in versions().items())
    run = f"{_count(counted.steps, 'step')}, {_count(counted.batch, 'sample')}, float32"
    facts = f"Runs of {run}. Counted with {names}."
    missing = [f"diffusers: {counted.lacks_diffusers}"] if counted.lacks_diffusers else []
    parts = [part for subject in counted.subjects for part in _subject(subject, counted.batch)]
    return "\n\n".join([INTRODUCTION, facts, *missing, *parts, NOTES]) + "\n"


def _subject(part: SubjectReport, batch: int) -> Iterator[str]:
    yield f"## {plain(part.subject.title)}"
    yield _table(part.rows)
    if not part.subject.opaque:
        each = _one_per_network_batch(part.rows)
        for row in each:
            rows = batch if row.guidance == "none" else 2 * batch
            line = f"The network, {_count(rows, 'row')}: {_network(row.engine.network)}"
            if row.diffusers and part.subject.diffusers_config is not None:
                line += f"; diffusers' {part.subject.diffusers_class} {_network(row.diffusers.network)}"
            yield f"{line}."
        if part.subject.given:
            yield f"A step, {_count(rows, 'row')}, op by op:"
            yield _ops(each[-1])
            yield _share(each[-1])
    yield from (f"Left out: {sampler}: {plain(reason)}" for sampler, reason in part.left_out.items())


def _one_per_network_batch(rows: Sequence[Row]) -> list[Row]:
    return list({row.guidance == "none": row for row in reversed(rows)}.values())[::-1]


def _table(rows: Sequence[Row]) -> str:
    cells = []
    for row in rows:
        ours, theirs = mean(row.engine.between), mean(row.diffusers.between) if row.diffusers else {}
        numbers = (_number(side, name) for name in ("launches", "bytes", "syncs") for side in (ours, theirs))
        cells.append((row.sampler, row.guidance, *numbers))
    return _markdown(("sampler", "guidance"), COLUMNS, cells)


def _ops(row: Row) -> str:
    """What a step is made of: each op of the network, and what is done between two calls."""
    both: list[dict[str, Cost]] = []
    for side in (row.engine, row.diffusers):
        found: dict[str, Cost] = {}
        for op, cost in side.network_ops.items() if side else ():
            name = op.removeprefix("aten::").split(".")[0]
            found[name] = found.get(name, Cost()) + cost
        both.append(found | ({BETWEEN: side.between[-1]} if side else {}))
    names = sorted({name for side in both for name in side}, key=lambda n: (-_launches(both, n), n))
    lines = {name: [side.get(name, Cost()) for side in both] for name in names}
    lines["in all"] = [sum(side.values(), Cost()) for side in both]
    cells = []
    for name, costs in lines.items():
        launches = (f"{cost.launches:,}" if cost.launches else "-" for cost in costs)
        cells.append((name, *launches, *(f"{cost.bytes / 1e6:,.1f}" if cost.bytes else "-" for cost in costs)))
    return _markdown(("op",), ("launches", "MB"), cells)


def _launches(both: Sequence[Mapping[str, Cost]], name: str) -> int:
    return 0 if name == BETWEEN else max(side.get(name, Cost()).launches for side in both)


def _share(row: Row) -> str:
    """The engine's launches as a share of diffusers', and those that no fusion around them takes away."""
    ours = row.engine.network + row.engine.between[-1]
    products = sum(cost.launches for op, cost in row.engine.network_ops.items() if PRODUCTS.search(op))
    text = f"{products} of the engine's {ours.launches} launches are products, attention, and convolutions with a bias"
    if row.diffusers:
        theirs = row.diffusers.network + row.diffusers.between[-1]
        return f"The engine's launches are {ours.launches / theirs.launches:.0%} of diffusers'; {text}."
    return f"{text}."


def _markdown(names: Sequence[str], pairs: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table: columns of text, then two for each pair, the engine's and diffusers'."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.MARKDOWN)
    for name in names:
        table.add_column(name)
    for name in pairs:
        table.add_column(f"{name}: engine", justify="right")
        table.add_column("diffusers", justify="right")
    for row in cells:
        table.add_row(*row)
    text = io.StringIO()
    terminal = sys.stdout.isatty() or None
    Console(file=text, force_terminal=terminal, width=WIDTH, highlight=False).print(table)
    return "\n".join(line.strip() for line in text.getvalue().strip().splitlines())


def _number(side: dict[str, float], name: str) -> str:
    if name not in side:
        return "-"
    return f"{side[name] / 1e3:,.1f}" if name == "bytes" else f"{side[name]:.4g}"


def _network(cost: Cost) -> str:
    return f"{cost.launches} launches, {cost.bytes / 1e6:,.1f} MB, {cost.syncs} syncs"


def _count(count: int, name: str) -> str:
    return f"{count} {name}{'s' * (count != 1)}"

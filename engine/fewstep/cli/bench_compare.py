"""`fewstep bench --compare A B`: whether two results agree within their intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.cli.page import titled_table, width, wrapped
from fewstep.cli.shared import emit, plain, write_out

if TYPE_CHECKING:
    from fewstep.bench.compare import Comparison
    from fewstep.bench.results import Row


def show_comparison(paths: Sequence[Path], as_json: bool) -> None:
    """Print the share of rows whose 95 % intervals overlap, and those that do not. ArgumentError for no result."""
    from fewstep.bench.compare import compare, load

    first, second = (load(path) for path in paths)
    found = compare(first, second)
    if as_json:
        emit(found.to_dict())
    else:
        write_out("\n".join(_page(found)) + "\n")


def _page(found: "Comparison") -> list[str]:
    agreeing = len(found.pairs) - len(found.apart)
    lines = [
        f"{agreeing} of {len(found.pairs)} rows agree ({found.share:.1%}): the 95 % intervals of their ratios overlap"
    ]
    if any(found.alone):
        lines.append(f"measured in the first alone: {found.alone[0]} rows, in the second alone: {found.alone[1]}")
    page = [part for line in lines for part in wrapped(line, width())]
    if found.apart:
        table = [("network", "sampler", "batch", "steps", "contender", "first", "second")]
        for pair in found.apart:
            row = pair.first
            case = (row.sampler, str(row.batch), str(row.steps), plain(row.contender))
            table.append((plain(row.model), *case, _interval(row), _interval(pair.second)))
        page += titled_table("ratios to the eager reference that lie apart, with their intervals", table, keys=5)
    return page


def _interval(row: "Row") -> str:
    return f"{row.ratio:.3f} ({row.ratio_low:.3f}..{row.ratio_high:.3f})"

"""Cold starts, split: import, load, compile, capture, first image."""

from collections.abc import Mapping, Sequence
from typing import Any

from fewstep.bench.reports.facts import COLD_PARTS, cold_part
from fewstep.bench.reports.plots.style import PARTS, SOFT, figure, legend_right, shortened

BELOW = "Each in a new process, once, with empty caches. Import includes torch's own. The image: one step."


def cold(starts: Sequence[tuple[str, str, Mapping[str, object]]]) -> Any:
    """A figure, or None where no cold start was measured."""
    if not starts:
        return None
    made = figure(8.2, 1.5 + 0.25 * len(starts) + 0.12 * len({model for model, _, _ in starts}), "Cold start", BELOW)
    axes = made.subplots()
    place, last, used, ticks = 0.0, starts[0][0], set(), []
    totals = []
    for model, contender, start in starts:
        place += 0.55 * (model != last)
        last, left = model, 0.0
        for index, part in enumerate(COLD_PARTS):
            length = cold_part(start, part) or 0.0
            if length > 0:
                axes.barh(place, length, left=left, height=0.7, color=PARTS[index])
                used.add(index)
            left += length
        totals.append((place, left))
        ticks.append((place, f"{shortened(model)}: {contender}"))
        place += 1
    widest = max(total for _, total in totals)
    for at, total in totals:
        axes.text(total + 0.008 * widest, at, f"{total:.1f} s", va="center", fontsize=7.5)
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks])
    axes.set_ylim(place - 0.4, -0.6)
    axes.set_xlim(0, 1.1 * widest)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("seconds", color=SOFT)
    from matplotlib.patches import Patch

    names = [name for index, name in enumerate(COLD_PARTS) if index in used]
    handles = [Patch(color=PARTS[index]) for index in sorted(used)]
    legend_right(made, handles, names)
    return made

"""Where the time of one image goes: the request's set-up, the network, and what lies between its calls."""

from typing import Any

from fewstep.bench.contenders import BARE, Case
from fewstep.bench.reports.facts import Network, short
from fewstep.bench.reports.plots.style import PARTS, SOFT, figure, legend_right, shortened
from fewstep.bench.results import Row

STEPS = 4  # that are shown where they were measured
NAMES = ("set-up", "network", "update and host", "not split (a graph)")
COLORS = (PARTS[1], PARTS[0], PARTS[2], "#c9cdd3")
BELOW = "Medians of the same runs. Where set-up was not clocked apart it is in update and host."


def case_shown(network: Network) -> Case:
    """The first sampler at 4 steps, else at the most, at the smallest batch size."""
    sampler = network.cases[0].sampler
    cases = [case for case in network.cases if case.sampler == sampler]
    chosen = [case for case in cases if case.steps == STEPS] or cases
    return max(chosen, key=lambda case: (-case.batch, case.steps))


def parts(row: Row) -> tuple[float, float, float, float]:
    """ms of set-up, network, update and host, and of what was not split."""
    whole = row.median_ms or 0.0
    if row.outside_us is None:
        return 0.0, 0.0, 0.0, whole
    outside = min(whole, 1e-3 * row.outside_us * row.steps)
    setup = min(outside, max(0.0, 1e-3 * (row.setup_us or 0.0)))
    return setup, whole - outside, outside - setup, 0.0


def waterfall(network: Network) -> Any:
    """A figure, or None where nobody was measured."""
    case = case_shown(network)
    shown = [(each, row) for each in network.contenders if each.kind != BARE and (row := network.measured(case, each))]
    if not shown:
        return None
    made = figure(8.2, 1.5 + 0.27 * len(shown), f"{shortened(network.name)}: one image, {case}", BELOW)
    axes = made.subplots()
    used = set()
    widest = max(row.median_ms or 0.0 for _, row in shown)
    for place, (_, row) in enumerate(shown):
        left, split = 0.0, parts(row)
        for index, length in enumerate(split):
            if length > 0:
                axes.barh(place, length, left=left, height=0.68, color=COLORS[index])
                used.add(index)
            left += length
        told = " + ".join(short(each) for each in split[:3]) if not split[3] else "not split"
        told = f"{short(left)} ms" + ("" if told == "not split" else f" = {told}")
        axes.text(left + 0.008 * widest, place, told, va="center", fontsize=7.5)
    axes.set_yticks(range(len(shown)), [each.name for each, _ in shown])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.42 * widest)
    axes.set_xlabel("ms" if case.batch == 1 else f"ms of a batch of {case.batch}", color=SOFT)
    from matplotlib.patches import Patch

    handles = [Patch(color=COLORS[index]) for index in sorted(used)]
    names = [NAMES[index] for index in sorted(used)]
    legend_right(made, handles, names)
    return made

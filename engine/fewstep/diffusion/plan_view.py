"""A plan for the eye: `Plan.describe` and `Plan.plot`."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep.columns import table_lines
from fewstep.diffusion.schedules import Array
from fewstep.errors import FewstepError, OutputError
from fewstep_kernels.row import COLUMNS

if TYPE_CHECKING:
    from fewstep.diffusion.plan import Plan

SETTINGS = ("clip", "clip_ratio", "w", "phi", "g")  # named once where every call has the same
HIDDEN = ("t", "c_in_next", "known_signal", "known_noise")  # shown otherwise, or what the levels already say

TERMS = {"a": "$x$", "b": "$x_0$", "e": "$m$", "s": "$z$"}  # of x' = a x + b x_0 + e m + s z
COLORS = {"a": "#4477aa", "b": "#c9a227", "e": "#228833", "s": "#d1495b"}  # apart for every kind of eye
INK, FAINT, LEVEL = "#30323d", "#dfe1e8", "#4477aa"


def describe(plan: Plan, width: int | None = None) -> str:
    """Head line, one aligned line per call, where the run lands; columns that say nothing are left out.

    Within `width` columns of text, if given: a table that does not fit goes on below itself, its calls beside it again.
    """
    calls = len(plan)
    table = {
        "call": [str(i + 1) for i in range(calls)],
        "t": [f"{t:.6g}" for t in np.round(plan.levels.t, 3)],
        "sigma": _numbers(plan.levels.sigmas[:-1]),
        "log-SNR": _numbers(plan.levels.log_snr[:-1]),
    }
    constant = []
    for name in COLUMNS:
        values = plan.column(name)
        usual = plan.column("t") if name == "r" else plan.DEFAULTS[name]
        if name in HIDDEN or (values == usual).all():
            continue
        if name in SETTINGS and (values == values[0]).all():
            constant.append(f"{name} {values[0]:.4g}")
        else:
            table[name] = _numbers(values)

    noun = "model call" if calls == 1 else "model calls"
    noise = "noise in every call but the last" if plan.column("s")[:-1].all() and calls > 1 else "noise in some calls"
    head = [
        f"{plan.sampler}: {calls} {noun}",
        f"{plan.prediction} prediction",
        f"{plan.levels.spacing} spacing",
        f"starts from {plan.init_scale:.6g} z",
        noise if (plan.column("s") != 0).any() else "no noise after the start",
        *constant,
        *([f"reads {plan.history} past value{'s' * (plan.history > 1)}"] if plan.history else []),
        *(["learned variance"] if plan.learned_variance else []),
        *(["closed"] if plan.closed else []),
        *([f"t is {plan.levels.time}"] if plan.levels.time != "timestep" else []),
    ]
    lines = table_lines([[name, *cells] for name, cells in table.items()], width)
    end = plan.levels.sigmas[-1]
    lands = "lands at x_0" if end == 0 else f"lands at sigma {end:.4g}"
    wasted = [f"changes nothing: call {', '.join(str(i + 1) for i in plan.wasted)}"] if plan.wasted else []
    about = textwrap.wrap(", ".join(head), max(width, 20), subsequent_indent="  ") if width else [", ".join(head)]
    return "\n".join([*about, *lines, *wasted, lands])


def plot(plan: Plan, path: str | os.PathLike[str] | None = None) -> Any:
    """Two panels over the model calls: the noise level falling, and what each call makes the new x of."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise FewstepError("plotting a plan needs matplotlib: pip install 'fewstep[plot]'") from None

    width = min(max(5.6, 1.6 + 0.62 * len(plan)), 11.0)
    figure = Figure(figsize=(width, 5.6), dpi=160, layout="constrained", facecolor="white")
    levels, update = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.1])
    for axes in (levels, update):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(FAINT)
        axes.tick_params(which="both", colors=INK, labelsize=8, length=0)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
    calls = "1 model call" if len(plan) == 1 else f"{len(plan)} model calls"
    levels.set_title(
        f"{plan.sampler}, {calls}, {plan.prediction} prediction", loc="left", fontsize=11, color=INK, pad=12
    )
    _draw_levels(levels, plan)
    _draw_update(update, plan)
    call = np.arange(0, len(plan), -(-len(plan) // 20))
    update.set_xticks(call + 0.5, [str(i + 1) for i in call])  # call i leads from level i to level i + 1
    update.set_xlim(-0.05 * len(plan), 1.07 * len(plan))
    update.set_xlabel("model call", color=INK, fontsize=9)
    if path is not None:
        try:
            figure.savefig(path)
        except (OSError, ValueError) as error:
            raise OutputError(f"cannot write {os.fspath(path)!r}: {error}") from None
    return figure


def _draw_levels(axes: Any, plan: Plan) -> None:
    """sigma on a log axis, falling at each call; marked with the t the model is told and where it lands."""
    sigmas = plan.levels.sigmas
    shown = sigmas[(sigmas > 0) & np.isfinite(sigmas)]
    low, high = (shown.min(), shown.max()) if len(shown) else (1.0, 1.0)
    floor, ceiling = low / 5, high * 5  # where x_0 (sigma = 0) and pure noise (sigma = inf) are drawn
    y = np.clip(sigmas, floor, ceiling)
    call = np.arange(len(sigmas))
    axes.fill_between(call, y, floor / 2, step="post", color=LEVEL, alpha=0.10, linewidth=0)
    axes.step(call, y, where="post", color=LEVEL, linewidth=1.8, solid_joinstyle="round")
    axes.plot(call[:-1], y[:-1], "o", color=LEVEL, markersize=4.5)
    axes.plot(call[-1:], y[-1:], "o", color=LEVEL, markerfacecolor="white", markersize=5.5, clip_on=False)
    for i in range(0, len(plan), -(-len(plan) // 10)):
        label = f"t = {plan.levels.t[i]:.4g}" + (" (no signal)" if np.isinf(sigmas[i]) else "")
        axes.annotate(label, (call[i], y[i]), (4, 4), textcoords="offset points", fontsize=7.5, color=INK)
    end = "$x_0$" if sigmas[-1] == 0 else f"{sigmas[-1]:.2g}"
    axes.annotate(end, (call[-1], y[-1]), (7, -3), textcoords="offset points", fontsize=9, color=INK)
    axes.set_yscale("log")
    axes.set_ylim(floor / 2, ceiling * 2)
    axes.set_ylabel("noise level sigma", color=INK, fontsize=9)


def _draw_update(axes: Any, plan: Plan) -> None:
    """The coefficients of x' = a x + b x_0 + e m + s z as bars, those that are 0 in every call left out."""
    drawn = [name for name in TERMS if plan.column(name).any()]
    call, width = np.arange(len(plan)) + 0.5, 0.8 / max(len(drawn), 3)
    tops: list[float] = []
    for k, name in enumerate(drawn):
        values, label = np.array(plan.column(name)), f"{name} {TERMS[name]}"
        place = call + (k - (len(drawn) - 1) / 2) * width
        if name == "s" and plan.learned_variance:
            low, high = (values * np.exp(0.5 * plan.column(bound)) for bound in ("log_var_min", "log_var_max"))
            axes.bar(place, high - low, width * 0.9, bottom=low, color=COLORS[name], alpha=0.4, linewidth=0)
            values, label = low, label + " (pale: the model's choice)"
        axes.bar(place, values, width * 0.9, color=COLORS[name], label=label, linewidth=0)
        tops.append(float(np.abs(values).max()))
    if max(tops) > 5:
        axes.set_yscale("symlog", linthresh=1)
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=0.9,
        handleheight=0.9,
        borderpad=0,
        columnspacing=1.6,
    )
    axes.set_ylabel("weight in the new x", color=INK, fontsize=9)


def _numbers(values: Array) -> list[str]:
    return [f"{value:.4g}" for value in values]

"""How every picture looks: colours by contender, dashes by dtype, one legend, a small PNG."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fewstep.bench.contenders import (
    BARE,
    BY_CALLS,
    BY_HAND,
    CHANNELS_LAST,
    COMPILE,
    DIFFUSERS,
    EAGER,
    ENGINE,
    FREEZING,
    MAX_AUTOTUNE,
    ONNXRUNTIME,
    REDUCE_OVERHEAD,
    REGIONAL,
    Contender,
)

INK, SOFT, FAINT = "#30343b", "#6d737d", "#dfe2e7"
COLORS = {  # by kind and backend
    (ENGINE, "torch"): "#c2410c",
    (ENGINE, "openvino"): "#15803d",
    (ENGINE, "compile"): "#b7791f",
    (BY_CALLS, "torch"): "#e58a5f",
    (EAGER, "torch"): "#1d4f91",
    (DIFFUSERS, "torch"): "#7c4fb0",
    (CHANNELS_LAST, "torch"): "#b794d9",
    (COMPILE, "torch"): "#0f8a83",
    (REGIONAL, "torch"): "#5cc2b5",
    (REDUCE_OVERHEAD, "torch"): "#2ea3d6",
    (MAX_AUTOTUNE, "torch"): "#0b6fa4",
    (FREEZING, "torch"): "#7d8a2e",
    (BY_HAND, "torch"): "#86b86b",
    (ONNXRUNTIME, "torch"): "#c22a6a",
    (BARE, "torch"): "#9aa0a8",
}
OTHER = "#555b66"
MARKERS = {ENGINE: "o", BY_CALLS: "h", EAGER: "s", DIFFUSERS: "D", BARE: "x", BY_HAND: "v", ONNXRUNTIME: "P"}
PARTS = ("#9db7d5", "#e3b23c", "#c2410c", "#7c4fb0", "#15803d")  # of a bar that is split
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "d")  # by network
DPI = 110
RULES: dict[str, Any] = {
    "text.parse_math": False,  # a name may hold a $
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
}


@contextmanager
def styled() -> Iterator[None]:
    """Within it figures are made and drawn in this style, whatever the user's own settings are."""
    from matplotlib import rc_context, rcParamsDefault

    usual = {name: value for name, value in rcParamsDefault.items() if not name.startswith("backend")}
    rules: Any = {**usual, **RULES}
    with rc_context(rules):
        yield


def figure(width: float, height: float, title: str, below: str = "") -> Any:
    """An empty figure of so many inches, with a heading, and a remark below it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    made.suptitle(shortened(title, int(7.6 * width)), x=0.01, ha="left", fontsize=10, weight="bold", color=INK)
    if below:
        made.supxlabel(below, x=0.01, ha="left", fontsize=7.5, color=SOFT)
    return made


def png(drawn: Any) -> bytes:
    """The same bytes for the same figure, in a palette."""
    from PIL import Image

    page = io.BytesIO()
    drawn.savefig(page, format="png", metadata={"Software": None})
    small = io.BytesIO()
    Image.open(page).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def color(contender: Contender) -> str:
    """That of its kind and backend."""
    return COLORS.get((contender.kind, contender.backend), OTHER)


def line(contender: Contender) -> dict[str, Any]:
    """How its line looks: dashed unless in float32."""
    return {
        "color": color(contender),
        "linestyle": "-" if contender.exact else (0, (4, 2)),
        "linewidth": 1.4,
        "marker": MARKERS.get(contender.kind, "^"),
        "markersize": 4.5,
        "markerfacecolor": color(contender) if contender.exact else "white",
        "elinewidth": 0.9,
        "capsize": 0,
    }


def dodged(value: float, place: int, count: int, by: float = 0.022) -> float:
    """Beside its value on a logarithmic axis, so that bars do not hide one another."""
    return float(value * (1 + by) ** (place - (count - 1) / 2))


def steps_axis(axes: Any, values: Sequence[int], label: str) -> None:
    """A logarithmic x axis with a tick at each value."""
    from matplotlib.ticker import NullFormatter

    axes.set_xscale("log", base=2)
    axes.set_xticks(list(values), [str(value) for value in values])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(min(values) / 1.35, max(values) * 1.35)
    axes.set_xlabel(label)


def plain_log(axis: Any) -> None:
    """A logarithmic axis with plain numbers; between its decades too, where it spans few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    between = (1, 1.5, 2, 3, 5, 7) if high / low < 6 else (1, 2, 5) if high / low < 200 else (1,)
    axis.set_major_locator(LogLocator(base=10, subs=between, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def tall(least: float, entries: int) -> float:
    """Inches of height for a legend of so many entries, and at least so many."""
    return max(least, 0.7 + 0.185 * entries)


def legend_right(made: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    """The one legend, beside the panels."""
    made.legend(handles, names, loc="outside right upper", fontsize=8, handlelength=2.6)


def shortened(text: str, most: int = 26) -> str:
    """At most so many characters of one line."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."

"""A report as Markdown: ratios first, then times, what is around the network, cold starts, and how to repeat it."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence

from fewstep.bench.contenders import BARE, EAGER, Contender
from fewstep.bench.reports import facts
from fewstep.bench.reports.facts import Network, ratio_words, short
from fewstep.bench.results import Report, Row

CLAIM = (
    "What is claimed are ratios: a contender's time over that of the eager reference in the same dtype, both taken in "
    "the same rounds of the same process. Below 1 is faster. The times themselves are of one machine on one day."
)


def to_markdown(report: Report, pictures: Sequence[str] = ()) -> str:
    """The whole report as a page.

    Args:
        report: what was found.
        pictures: names of files beside the page, shown at its end.
    """
    lines = [f"# Benchmark of {escaped(report.when)}", "", CLAIM, "", *environment(report)]
    for network in facts.networks(report):
        lines += ["", f"## {escaped(network.name)}", "", escaped(network.in_words) + ".", *network_tables(network)]
    for title, part in (
        ("The host", host_table(report)),
        ("Ceilings and floor", limits_table(report)),
        ("Cold start", cold_table(report)),
        ("What is missing", absent(report)),
    ):
        lines += ["", f"## {title}", "", *part] if part else []
    if report.advice:
        lines += ["", "## Advice", "", escaped(report.advice)]
    if pictures:
        lines += ["", "## Pictures"]
        for name in pictures:
            lines += ["", f"![{escaped(name.removesuffix('.png'))}]({name})"]
    lines += ["", "## Again", "", *code(again(report))]
    return "\n".join(lines) + "\n"


def environment(report: Report) -> list[str]:
    """What it was measured on, and how."""
    told = [*facts.machine_lines(report), facts.method(report), facts.parity(report)]
    return [f"- {escaped(line)}" for line in told]


def network_tables(network: Network) -> list[str]:
    """The ratios, and below them the times."""
    if not network.contenders:
        return ["", "Nobody was measured."]
    times = _by_case(network, network.contenders, lambda row: short(row.ms_per_image))
    lines = ["", "Time over the eager reference's, with the 95 % interval:", "", *ratios(network)]
    return [*lines, "", "Milliseconds an image, median:", "", *times]


def ratios(network: Network) -> list[str]:
    """A line for each case, a column for each contender but the reference."""
    return _by_case(network, [each for each in network.contenders if each.kind != EAGER], ratio_words)


def _by_case(network: Network, contenders: Sequence[Contender], told: Callable[[Row], str]) -> list[str]:
    lines = []
    for case in network.cases:
        rows = [network.measured(case, each) for each in contenders]
        if any(row is not None for row in rows):
            where = [case.sampler, str(case.batch), str(case.steps)]
            lines.append([*where, *("-" if row is None else told(row) for row in rows)])
    return table(["sampler", "batch", "steps", *(each.name for each in contenders)], lines)


def host_table(report: Report) -> list[str]:
    """Microseconds outside the network's calls, in float32, of every contender that the clock could look into."""
    lines = []
    for network in facts.networks(report):
        case = facts.host_case(network, report)
        for contender in network.contenders:
            row = network.measured(case, contender)
            if row is None or row.outside_us is None or contender.kind == BARE or not contender.exact:
                continue
            target = report.target_us(case, network.name)
            promised = "-" if target is None or row.loop_median_us is None else f"at most {target:.0f}"
            told = [short(row.outside_us), short(row.loop_median_us), promised, short(row.setup_us)]
            lines.append([network.name, str(case), contender.name, *told])
    if not lines:
        return []
    names = ["network", "case", "contender", "outside the network, us a step", "the loop, us a step"]
    return table([*names, "promised", "set-up, us a request"], lines)


def limits_table(report: Report) -> list[str]:
    """The ceilings, and how near to them each contender comes at the largest batch size."""
    told = [
        f"- {dtype}: {tflops:.3g} TFLOP/s in a product of matrices, {gb_s:.3g} GB/s in a copy, measured beside the rows"
        for dtype, tflops, gb_s in facts.ceilings(report)
    ]
    lines = []
    for network in facts.networks(report):
        case = facts.largest(network)
        for contender in network.contenders:
            row = network.measured(case, contender)
            if row is None or row.of_floor is None or contender.kind == BARE:
                continue
            rates = [_digits(row.tflops), _share(row.tflops_share), _digits(row.gb_s), _share(row.gb_s_share)]
            lines.append([network.name, str(case), contender.name, *rates, _digits(row.of_floor)])
    if lines:
        names = ["network", "case", "contender", "TFLOP/s", "of the ceiling", "GB/s", "of the ceiling"]
        told += [""] * bool(told) + table([*names, "time over the floor"], lines)
    return told


def cold_table(report: Report) -> list[str]:
    """Seconds of each part of a cold start, and the most memory."""
    lines = []
    for model, contender, start in facts.cold_starts(report):
        seconds = [facts.cold_part(start, part) for part in facts.COLD_PARTS]
        shown = ["-" if each is None else f"{each:.2f}" for each in seconds]
        cached = facts.cold_again(start)
        ends = [f"{facts.cold_total(start):.2f}", "-" if cached is None else f"{cached:.2f}", megabytes(start)]
        lines.append([model, contender, *shown, *ends])
    heads = ["network", "contender", *(f"{part}, s" for part in facts.COLD_PARTS)]
    heads += ["all, s", "compile with full caches, s", "most memory, MB"]
    return table(heads, lines) if lines else []


def megabytes(start: Mapping[str, object]) -> str:
    """The most memory of a cold start."""
    peak = start.get("peak_bytes")
    return f"{peak / 1e6:.0f}" if isinstance(peak, int | float) else "-"


def absent(report: Report) -> list[str]:
    """Who was not measured and why, and whose images are wrong."""
    return [f"- {escaped(line)}" for line in (*map(str, facts.missing(report)), *facts.wrong_words(report))]


def again(report: Report) -> str:
    """The command that measures the same, as far as the settings tell."""
    said = report.settings.get("command")
    if isinstance(said, str):
        return said
    names = list(dict.fromkeys(row.model for row in report.rows))
    cases = [(row.steps, row.batch) for row in report.rows]
    steps, batches = (",".join(map(str, sorted({case[place] for case in cases}))) for place in (0, 1))
    return f"fewstep bench {shlex.join(names)} --steps {steps} --batch {batches}"


def code(text: str) -> list[str]:
    """A command as a block of code, whatever it holds."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}sh", one_line(text), fence]


def table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown."""
    rows = [names, ["---"] * len(names), *lines]
    return ["| " + " | ".join(cell if cell == "---" else escaped(cell) for cell in row) + " |" for row in rows]


def escaped(text: str) -> str:
    """One line in which nothing steers Markdown, a table or a formula."""
    return re.sub(r"([\\`*_\[\]|$~#])", r"\\\1", one_line(text)).replace("<", "&lt;").replace(">", "&gt;")


def one_line(text: str) -> str:
    """Without line ends and other control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).strip()


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"

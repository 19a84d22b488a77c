"""A report as one file of HTML that asks for nothing else: tables that sort, pictures, every number behind its cell."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from fewstep.bench.contenders import BARE, EAGER
from fewstep.bench.reports import facts
from fewstep.bench.reports.facts import Network, ratio_words, short
from fewstep.bench.reports.look import SCRIPT, STYLE
from fewstep.bench.reports.markdown import CLAIM, again, one_line
from fewstep.bench.reports.names import captions
from fewstep.bench.results import COLUMNS, Report, Row

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
HIDDEN = ("model", "seconds", "kind", "backend", "dtype")  # of the table of all numbers; contender says the last three


@dataclass(frozen=True)
class Cell:
    """Of a table: what is shown, what it is sorted by, what is told when one points at it, its classes."""

    text: str
    value: float | None = None
    told: str = ""
    kind: str = ""

    def html(self) -> str:
        """As <td>."""
        data = "" if self.value is None else f' data-value="{self.value:.9g}"'
        empty = ' data-value=""' if self.value is None and self.text == "-" else ""
        title = f' title="{clean(self.told)}" tabindex="0"' if self.told else ""
        return f'<td class="{self.kind}"{data}{empty}{title}>{clean(self.text)}</td>'


def to_html(report: Report, pictures: Mapping[str, bytes]) -> str:
    """The whole report as a page.

    Args:
        report: what was found.
        pictures: PNGs by name, as `plots.draw` gives them; none where matplotlib is not installed.
    """
    found = facts.networks(report)
    title = f"Benchmark of {report.when}"
    parts = [f"<h1>{clean(title)}</h1>", f"<p>{clean(CLAIM)}</p>"]
    parts += [f'<p class="advice">{clean(report.advice)}</p>'] if report.advice else []
    parts += [_links(found), _list([*facts.machine_lines(report), facts.method(report), facts.parity(report)])]
    if not pictures:
        parts.append('<p class="soft">There are no pictures: matplotlib is not installed.</p>')
    shown = captions(found, pictures)
    for place, network in enumerate(found):
        parts += [f'<h2 id="network-{place}">{clean(network.name)}</h2>', f"<p>{clean(network.in_words)}.</p>"]
        parts += [ratios(network), _pictures(shown.get(network.name, {}), pictures), numbers(network)]
    parts += ['<h2 id="all">All networks</h2>', _pictures(shown.get("", {}), pictures)]
    parts += [_section("The host", host(report, found)), _section("Ceilings and floor", limits(report, found))]
    parts.append(_section("Cold start", starts(report)))
    absent = [*map(str, facts.missing(report))]
    parts.append(_section("What is missing", _list(absent) if absent else ""))
    parts += [f'<p class="wrong">{clean(line)}</p>' for line in facts.wrong_words(report)]
    parts += ["<h2>Again</h2>", f"<pre>{clean(again(report))}</pre>", _machine(report)]
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{clean(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
    )
    body = "\n".join(part for part in parts if part)
    return f"{head}{body}\n<script>{SCRIPT}</script>\n</body>\n</html>\n"


def ratios(network: Network) -> str:
    """A line for each case and contender: ratio, interval and time, with all its quantiles behind it."""
    lines = []
    for case in network.cases:
        for contender in network.contenders:
            row = network.measured(case, contender)
            if row is None:
                continue
            ratio = ratio_words(row)
            fast = "fast" if row.ratio_high is not None and row.ratio_high < 1 and row.kind != BARE else ""
            lines.append(
                [
                    Cell(case.sampler, kind="word"),
                    Cell(str(case.batch), case.batch),
                    Cell(str(case.steps), case.steps),
                    Cell(contender.name, told=contender.about, kind="word"),
                    Cell(ratio, row.ratio, _quantiles(row), "" if row.kind == EAGER else fast),
                    Cell(short(row.ms_per_image), row.ms_per_image, _quantiles(row)),
                    Cell(short(row.images_per_s), row.images_per_s),
                    Cell(_difference(row), row.difference),
                ]
            )
    if not lines:
        return "<p>Nobody was measured.</p>"
    names = ["sampler", "batch", "steps", "contender", "ratio to eager (95 %)", "ms an image", "images/s", "difference"]
    return table(names, lines, words=(0, 3))


def numbers(network: Network) -> str:
    """Every column of every row, to unfold; a row whose images are wrong has words alone."""
    names = [name for name in COLUMNS if name not in HIDDEN]
    lines = []
    for row in network.rows.values():
        known = row if facts.is_measured(row) else None
        cells = [Cell(row.contender, kind="word"), Cell(row.status, kind="word")]
        for name in names:
            if name not in ("contender", "status"):
                value = getattr(row, name) if known or name in ("sampler", "steps", "batch", "size") else None
                cells.append(_raw(value))
        lines.append(cells)
    heads = ["contender", "status", *(name for name in names if name not in ("contender", "status"))]
    return f"<details><summary>All numbers</summary>{table(heads, lines, words=(0, 1))}</details>"


def host(report: Report, found: Sequence[Network]) -> str:
    """Microseconds outside the network."""
    lines = []
    for network in found:
        for case in network.cases:
            for contender in network.contenders:
                row = network.measured(case, contender)
                if row is None or row.outside_us is None or contender.kind == BARE:
                    continue
                target = report.target_us(case, network.name)
                promised = "" if target is None or row.loop_median_us is None else f"at most {target:.0f}"
                numbers = [Cell(short(each), each) for each in (row.outside_us, row.loop_median_us, row.setup_us)]
                where = [Cell(each, kind="word") for each in (network.name, str(case), contender.name)]
                lines.append([*where, *numbers, Cell(promised)])
    names = ["network", "case", "contender", "outside the network, us a step", "loop, us a step"]
    return table([*names, "set-up, us a request", "promised of the loop"], lines, words=(0, 1, 2)) if lines else ""


def limits(report: Report, found: Sequence[Network]) -> str:
    """The ceilings, and how near each comes."""
    told = [
        f"{dtype}: {tflops:.3g} TFLOP/s in a product of matrices, {gb_s:.3g} GB/s in a copy, measured beside the rows"
        for dtype, tflops, gb_s in facts.ceilings(report)
    ]
    lines = []
    for network in found:
        for (case, name), row in network.rows.items():
            if facts.is_measured(row) and row.of_floor is not None and row.kind != BARE:
                where = [Cell(each, kind="word") for each in (network.name, str(case), name)]
                rates = [Cell(_short(each), each) for each in (row.tflops, row.gb_s, row.floor_ms, row.of_floor)]
                shares = [Cell(_percent(each), each) for each in (row.tflops_share, row.gb_s_share)]
                lines.append([*where, rates[0], shares[0], rates[1], shares[1], *rates[2:]])
    names = ["network", "case", "contender", "TFLOP/s", "of the ceiling", "GB/s", "of the ceiling ", "floor, ms"]
    return (_list(told) if told else "") + (table([*names, "time over the floor"], lines, (0, 1, 2)) if lines else "")


def starts(report: Report) -> str:
    """Cold starts."""
    lines = []
    for model, contender, start in facts.cold_starts(report):
        seconds = [facts.cold_part(start, part) for part in facts.COLD_PARTS]
        peak = start.get("peak_bytes")
        memory = peak / 1e6 if isinstance(peak, int | float) else None
        seconds += [facts.cold_total(start), facts.cold_again(start)]
        cells = [Cell("-" if each is None else f"{each:.2f}", each) for each in seconds]
        cells.append(Cell("-" if memory is None else f"{memory:.0f}", memory))
        lines.append([Cell(model, kind="word"), Cell(contender, kind="word"), *cells])
    names = ["network", "contender", *(f"{part}, s" for part in facts.COLD_PARTS)]
    names += ["all, s", "compile with full caches, s", "most memory, MB"]
    return table(names, lines, words=(0, 1)) if lines else ""


def table(names: Sequence[str], lines: Sequence[Sequence[Cell]], words: Sequence[int] = ()) -> str:
    """A table whose columns sort; `words` are the columns aligned to the left."""
    heads = "".join(
        f'<th class="{"word" * (place in words)}"><button type="button">{clean(name)}</button></th>'
        for place, name in enumerate(names)
    )
    rows = "\n".join(f"<tr>{''.join(cell.html() for cell in line)}</tr>" for line in lines)
    return f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def clean(text: str) -> str:
    """One line as text of HTML."""
    return escape(one_line(text))


def _links(found: Sequence[Network]) -> str:
    links = [f'<a href="#network-{place}">{clean(each.name)}</a>' for place, each in enumerate(found)]
    return f'<nav>{"".join(links)}<a href="#all">all networks</a></nav>'


def _list(lines: Iterable[str]) -> str:
    return f'<ul class="soft">{"".join(f"<li>{clean(line)}</li>" for line in lines)}</ul>'


def _section(title: str, content: str) -> str:
    return f"<h3>{title}</h3>{content}" if content else ""


def _pictures(names: Mapping[str, str], pictures: Mapping[str, bytes]) -> str:
    figures = [
        f'<figure><img alt="{clean(caption)}" src="data:image/png;base64,{base64.b64encode(pictures[name]).decode()}">'
        "</figure>"
        for name, caption in names.items()
    ]
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else ""


def _machine(report: Report) -> str:
    lines = [[Cell(name, kind="word"), Cell(str(value), kind="word")] for name, value in report.machine.items()]
    lines += [[Cell(name, kind="word"), Cell(str(value), kind="word")] for name, value in report.settings.items()]
    return f"<details><summary>Machine and settings</summary>{table(['what', 'value'], lines, (0, 1))}</details>"


def _quantiles(row: Row) -> str:
    ends = ("min_ms", "median_ms", "p90_ms", "p99_ms", "max_ms", "mean_ms")
    told = [f"{name.removesuffix('_ms')} {short(getattr(row, name))}" for name in ends]
    return f"ms of the batch: {', '.join(told)}; {row.repeats} samples in {facts.several(row.runs, 'run')}"


def _difference(row: Row) -> str:
    return "-" if row.difference is None else f"{row.difference:.1e}"


def _raw(value: object) -> Cell:
    if value is None:
        return Cell("-")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(str(value), kind="word")
    return Cell(f"{value:.4g}" if isinstance(value, float) else str(value), float(value))


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"

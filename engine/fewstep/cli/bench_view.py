"""The page that `fewstep bench` prints: as wide as the terminal, and short."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.cli.page import titled_table, width, wrapped
from fewstep.cli.shared import plain

if TYPE_CHECKING:
    from fewstep.bench import Report, Row
    from fewstep.bench.contenders import Case
    from fewstep.bench.reports.facts import Network

Table = list[tuple[str, ...]]  # lines of cells, the headings first


def page(report: "Report", paths: Sequence[Path]) -> str:
    """What was measured on what, the tables, who is missing and who is wrong, the files, and at the end the advice."""
    from fewstep.bench.reports import facts

    found = facts.networks(report)
    lines = _text([*facts.machine_lines(report), facts.method(report), facts.parity(report)])
    for network in found:
        lines += _network(network, whole=len(found) == 1)
    title = "the host: us outside the network, a step; of it the engine's loop; and once a request its set-up"
    lines += _table(title, _host(report, found), keys=2)
    title = "operations and bytes a second (share of the ceiling), time over the floor; at the largest batch"
    lines += _table(title, _limits(found), keys=2)
    for dtype, tflops, gb_s in facts.ceilings(report):
        told = f"ceiling in {dtype}, measured beside the rows: {tflops:.3g} TFLOP/s and {gb_s:.3g} GB/s"
        lines += _text([told])
    title = "cold start, a new process each: seconds, compiling again with full caches, and the most memory"
    lines += _table(title, _cold(report), keys=2)
    for sentences in ([str(each) for each in facts.missing(report)], facts.wrong_words(report)):
        lines += [""] * bool(sentences) + _text(sentences)
    if paths:
        lines += ["", *_text(["written: " + ", ".join(str(path) for path in paths)])]
        if not any(path.suffix == ".png" for path in paths):
            lines += _text(["there are no pictures: they need matplotlib, pip install 'fewstep[plot]'"])
    if report.advice:
        lines += ["", *_text([report.advice])]
    return "\n".join(lines) + "\n"


def _text(sentences: Sequence[str]) -> list[str]:
    return [part for sentence in sentences for part in wrapped(plain(sentence), width())]


def _table(title: str, lines: Table, *, keys: int) -> list[str]:
    if len(lines) < 2:
        return []
    return titled_table(title, [tuple(map(plain, cells)) for cells in lines], keys=keys)


def _network(network: "Network", whole: bool) -> list[str]:
    """A table of ms an image with the ratio beside it: of all cases, or of the fewest and the most steps alone."""
    lines = ["", *_text([network.heading])]
    samplers = {case.sampler for case in network.cases}
    names = [each.name for each in network.contenders]
    if not names:
        return [*lines, *_text(["nobody was measured"])]
    few = len(samplers) == 1
    keys = ("batch", "steps") if few else ("sampler", "batch", "steps")
    table: Table = [(*keys, *names)]
    shown = network.cases if whole else _ends(network.cases)
    for case in shown:
        rows = [network.measured(case, each) for each in network.contenders]
        if any(row is not None for row in rows):
            table.append((*_case(case, few), *(_time(row) for row in rows)))
    named = f"{next(iter(samplers))}, " if few else ""
    part = "" if len(shown) == len(network.cases) else f" of {len(network.cases)}"
    named += f"{len(shown)}{part} cases: " if part else ""
    title = f"{named}ms an image, ratio to eager of the same dtype (95 % interval)"
    return lines + _table(title, table, keys=len(keys))


def _ends(cases: "Sequence[Case]") -> "list[Case]":
    """Of each sampler and batch size the fewest and the most steps."""
    found: dict[tuple[str, int], list[Case]] = {}
    for case in cases:
        found.setdefault((case.sampler, case.batch), []).append(case)
    return [case for each in found.values() for case in dict.fromkeys((each[0], each[-1]))]


def _case(case: "Case", few: bool) -> tuple[str, ...]:
    numbers = (str(case.batch), str(case.steps))
    return numbers if few else (case.sampler, *numbers)


def _time(row: "Row | None") -> str:
    from fewstep.bench.contenders import EAGER
    from fewstep.bench.reports.facts import ratio_words, short

    if row is None:
        return "-"
    return short(row.ms_per_image) + ("" if row.kind == EAGER else f"  {ratio_words(row)}")


def _host(report: "Report", found: "Sequence[Network]") -> Table:
    """A line for each of ours and of the loops that people write, in float32, whose network the clock saw."""
    from fewstep.bench.contenders import DIFFUSERS, EAGER, ENGINE
    from fewstep.bench.reports.facts import host_case, short

    lines: Table = [("network", "contender", "a step", "loop", "target", "set-up")]
    for network in found:
        case = host_case(network, report)
        for contender in network.contenders:
            row = network.measured(case, contender)
            told = contender.exact and contender.kind in (ENGINE, EAGER, DIFFUSERS)
            if row is None or row.outside_us is None or not told:
                continue
            loop, target = row.loop_median_us, report.target_us(case, network.name)
            promise = ""
            if target is not None and loop is not None:
                promise = f"<= {target:.0f} {'met' if loop <= target else 'MISSED'}"
            numbers = (short(row.outside_us), short(loop), promise, short(row.setup_us))
            lines.append((network.name, contender.name, *numbers))
    return lines


def _limits(found: "Sequence[Network]") -> Table:
    from fewstep.bench.contenders import ENGINE
    from fewstep.bench.reports.facts import largest

    lines: Table = [("network", "contender", "TFLOP/s", "GB/s", "x floor")]
    for network in found:
        last = largest(network)
        for contender in network.contenders:
            row = network.measured(last, contender)
            if contender.kind != ENGINE or row is None or row.of_floor is None:
                continue
            rates = (_share(row.tflops, row.tflops_share), _share(row.gb_s, row.gb_s_share))
            lines.append((network.name, contender.name, *rates, f"{row.of_floor:.3g}"))
    return lines


def _cold(report: "Report") -> Table:
    from fewstep.bench.reports.facts import COLD_PARTS, cold_again, cold_part, cold_starts

    lines: Table = [("network", "contender", *COLD_PARTS, "cached", "MB")]
    for model, contender, start in cold_starts(report):
        seconds = [*(cold_part(start, part) for part in COLD_PARTS), cold_again(start)]
        peak = start.get("peak_bytes")
        memory = f"{peak / 1e6:.0f}" if isinstance(peak, int | float) else "-"
        lines.append((model, contender, *("-" if each is None else f"{each:.2f}" for each in seconds), memory))
    return lines


def _share(value: float | None, share: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" + ("" if share is None else f" ({100 * share:.0f} %)")

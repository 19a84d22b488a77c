"""The pictures of a report, each by a file here; all need matplotlib."""

from typing import Any

from fewstep.bench.reports import facts
from fewstep.bench.reports.names import file_names
from fewstep.bench.reports.plots.cold import cold
from fewstep.bench.reports.plots.latency import latency
from fewstep.bench.reports.plots.quality import quality
from fewstep.bench.reports.plots.roofline import roofline
from fewstep.bench.reports.plots.scaling import scaling
from fewstep.bench.reports.plots.style import png, styled
from fewstep.bench.reports.plots.waterfall import waterfall
from fewstep.bench.results import Report

OF_A_NETWORK = {"latency": latency, "waterfall": waterfall, "scaling": scaling}


def draw(report: Report) -> dict[str, bytes]:
    """PNGs by the name of their file, those of a network together; the same bytes for the same report."""
    found = facts.networks(report)
    drawn: dict[str, bytes] = {}
    with styled():
        for network in found:
            for kind, picture in OF_A_NETWORK.items():
                _keep(drawn, file_names(found, kind)[network.name], picture(network))
        _keep(drawn, "roofline.png", roofline(found, facts.ceilings(report)))
        _keep(drawn, "cold.png", cold(facts.cold_starts(report)))
        _keep(drawn, "quality.png", quality(report.rows, report.contenders))
    return drawn


def _keep(drawn: dict[str, bytes], name: str, made: Any) -> None:
    if made is not None:
        drawn[name] = png(made)

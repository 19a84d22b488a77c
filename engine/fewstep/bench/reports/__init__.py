"""The forms of a report beside its numbers: Markdown, a page of HTML that needs nothing else, pictures."""

from importlib.util import find_spec

from fewstep.bench.reports.html import to_html
from fewstep.bench.reports.markdown import to_markdown
from fewstep.bench.results import Report

__all__ = ["pictures", "rendered", "to_html", "to_markdown"]


def pictures(report: Report) -> dict[str, bytes]:
    """PNGs by the name of their file; none without matplotlib, for want of which the numbers must not be lost."""
    if find_spec("matplotlib") is None:
        return {}
    from fewstep.bench.reports.plots import draw

    return draw(report)


def rendered(report: Report) -> dict[str, bytes]:
    """All forms by the name of their file, as `Report.save` takes them: bench.md, bench.html and PNGs."""
    drawn = pictures(report)
    pages = {"bench.md": to_markdown(report, list(drawn)), "bench.html": to_html(report, drawn)}
    return {**{name: text.encode() for name, text in pages.items()}, **drawn}

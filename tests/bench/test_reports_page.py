"""The page of HTML in a headless Chromium: it asks for nothing, no script complains, columns sort, a phone shows it."""

from pathlib import Path

import pytest

from fewstep.bench.reports import rendered
from support.bench_report import sample

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    report = sample(names={"terrain": "my <b>terrain</b>"})
    report.save(place, rendered(report))
    return place


@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_needs_nothing_else(folder: Path, tmp_path: Path, width: int) -> None:
    from support.browser import Seen, browser

    with browser(tmp_path / "profile", width=width) as context:
        page, seen = context.new_page(), Seen()
        seen.watch(page)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.goto((folder / "bench.html").as_uri())
            page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
        assert seen.errors == []
        assert {address.split(":")[0] for address in seen.requests} <= {"file", "data"}
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.evaluate("[...document.images].every(each => each.complete && each.naturalWidth > 0)")
        assert page.locator("img").count() == 12


def test_a_click_sorts_a_column(folder: Path, tmp_path: Path) -> None:
    from support.browser import browser

    with browser(tmp_path / "profile") as context:
        page = context.new_page()
        page.goto((folder / "bench.html").as_uri())
        table = page.locator("table").first
        read = "table => [...table.tBodies[0].rows].map(row => Number(row.cells[5].dataset.value))"
        before = table.evaluate(read)
        table.get_by_role("button", name="ms an image").click()
        assert table.evaluate(read) == sorted(before)
        table.get_by_role("button", name="ms an image").click()
        assert table.evaluate(read) == sorted(before, reverse=True)
        assert table.locator("th[aria-sort=descending]").inner_text().startswith("ms an image")

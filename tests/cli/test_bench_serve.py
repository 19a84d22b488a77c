"""`fewstep bench serve`: a verb of two words, its page, its files, and what it refuses."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from support.cli_case import Run, parse_only
from support.loaded import Manners, polite
from support.serving import serving


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(polite(Manners())) as (host, port):
        yield f"http://{host}:{port}"


def test_a_load_is_a_page_and_two_files(run: Run, tmp_path: Path) -> None:
    options = ("--requests", 20, "--concurrency", 2, "--steps", "1,2", "--out", tmp_path / "load")
    with serving(polite(Manners(refuse=7))) as (host, port):
        ran = run("bench", "serve", f"http://{host}:{port}", *options)
    assert (ran.code, ran.err) == (0, "")
    for said in ("20 requests 2 at a time, steps 1, 2", "each drawn twice and the same", "refused 3, failed 0"):
        assert said in ran.out
    assert "rows of a step: 4.0, 50 % of 8 slots" in ran.out
    saved = json.loads((tmp_path / "load/serve.json").read_text())
    assert saved["summary"]["sent"] == 20
    with Image.open(tmp_path / "load/serve.png") as image:
        image.load()


def test_a_load_is_a_json_object(run: Run, url: str) -> None:
    ran = run("bench", "serve", url, "--requests", 3, "--rate", 1000, "--stream", "--deadline-ms", 60_000, "--json")
    report = json.loads(ran.out)
    assert report["summary"]["in_time"] == report["summary"]["served"]
    assert report["traffic"]["rate"] == 1000.0


def test_a_page_fits_a_narrow_terminal(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    page = run("bench", "serve", url, "--requests", 5).out
    assert all(len(line) <= 60 for line in page.splitlines())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--steps", "0"], "steps: got 0"),
        (["--steps", "1,1"], "each number once"),
        (["--steps", "1,2", "--weights", "1"], "a number from 0 for each of steps"),
        (["--rate", "-1"], "rate: got -1"),
        (["--served", "third"], "allowed: what"),
    ],
    ids=["no step", "twice", "too few weights", "no rate", "no such model"],
)
def test_what_cannot_be_asked_for_is_one_line(run: Run, url: str, options: list[str], error: str) -> None:
    ran = run("bench", "serve", url, *options)
    assert ran.code == 2
    assert error in ran.error


def test_a_server_that_is_not_there_is_one_line(run: Run) -> None:
    ran = run("bench", "serve", "http://127.0.0.1:9")
    assert ran.code == 2
    assert "http://127.0.0.1:9" in ran.error


def test_the_first_word_alone_is_the_other_verb() -> None:
    """A model in a folder called serve is ./serve."""
    parse_only(["bench", "./serve"])
    parse_only(["bench", "digits", "--steps", "1"])
    parse_only(["bench", "serve", "digits", "--rate", "2"])

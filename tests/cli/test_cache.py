"""`fewstep cache`: what is kept for backends, shown and removed; and what `fewstep info` says of it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fewstep.cli.cache import size_of
from fewstep.run.backends.cache import CARD, Cache, key_of
from support.cli_case import Run

MODEL = {
    "what": "model",
    "network": "UNet",
    "digest": "0123456789abcdef",
    "inputs": [["float32", None, 3, 32, 32], ["float32", None]],
}
FINDING = {
    "what": "finding",
    "network": "UNet",
    "digest": "0123456789abcdef",
    "inputs": [["float32", 4, 3, 32, 32], ["float32", 4]],
    "dtype": "bfloat16",
    "threads": None,
    "torch_threads": 2,
    "found": {
        "taken": "openvino",
        "milliseconds": 35.31,
        "torch_milliseconds": 1282.04,
        "error": 2.71e-3,
        "convert_seconds": 4.0,
        "compile_seconds": 0.25,
    },
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEWSTEP_CACHE_GB", raising=False)
    return Cache.of_user()


@pytest.fixture
def filled(cache: Cache) -> Cache:
    cache.keep(key_of(MODEL), MODEL, lambda folder: (folder / "model.bin").write_bytes(bytes(2048)) and None)
    cache.keep(key_of(FINDING), FINDING)
    os.utime(cache.folder / key_of(MODEL) / CARD, (1e9, 1e9))
    return cache


def test_an_empty_cache_is_shown_and_cleared_and_not_made(run: Run, cache: Cache) -> None:
    ran = run("cache")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.split("\n") == ["cache", f"  folder  {cache.folder}", "  size    0 entries, 0 bytes of 4 GiB", ""]
    assert json.loads(run("cache", "--json").out)["entries"] == []
    assert run("cache", "--clear").code == 0
    assert not cache.folder.exists()


def test_entries_are_shown_with_what_was_measured(run: Run, filled: Cache) -> None:
    page = run("cache").out
    converted, measured = (line.split() for line in page.splitlines() if " UNet " in line)
    assert " ".join(converted).startswith("UNet 01234567 float32 ? x 3 x 32 x 32; float32 ? 2.")
    assert " ".join(measured).startswith("UNet 01234567 4 x 3 x 32 x 32 bfloat16 2 openvino 35.3 1282 2.7e-03 20")
    told = json.loads(run("cache", "--json").out)
    assert (told["folder"], told["limit_bytes"]) == (str(filled.folder), 4 << 30)
    assert told["bytes"] == sum(each["bytes"] for each in told["entries"])
    finding, model = told["entries"]  # last used first
    assert (model["key"], model["last_used"]) == (key_of(MODEL), "2001-09-09T01:46:40Z")
    assert (finding["milliseconds"], finding["error"], finding["taken"]) == (35.31, 2.71e-3, "openvino")


@pytest.mark.parametrize("columns", [40, 80])
def test_the_page_is_as_wide_as_the_terminal(
    run: Run, filled: Cache, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run("cache").out.splitlines()
    assert all(len(line) <= max(columns, 55) or str(filled.folder) in line for line in lines)


def test_clearing_removes_all_and_says_how_much(run: Run, filled: Cache) -> None:
    (filled.folder / key_of(MODEL) / CARD).write_text("damaged")
    (filled.folder / "mine.txt").write_text("stays")
    assert "damaged" in run("cache").out
    told = json.loads(run("cache", "--clear", "--json").out)
    assert told["removed"] == 2
    assert told["freed_bytes"] > 2048
    assert os.listdir(filled.folder) == ["mine.txt"]
    assert "0 entries, 0 bytes" in run("cache", "--clear").out


def test_a_cache_that_cannot_be_cleared_is_one_line(run: Run, filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fewstep.run.backends.cache.os.rename", refuses)
    ran = run("cache", "--clear")
    assert (ran.code, ran.error) == (2, f"{filled.folder}: cannot be written: permission denied")


def test_a_size_that_is_none_is_an_error_that_names_it(run: Run, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE_GB", "all")
    ran = run("cache")
    assert (ran.code, "FEWSTEP_CACHE_GB: got 'all'" in ran.error) == (2, True)


def test_info_tells_the_backends_and_what_was_made_ready(run: Run, filled: Cache) -> None:
    page = run("info").out
    said = (
        "UNet 01234567, 4 x 3 x 32 x 32, bfloat16: openvino, 35.3 ms (torch 1282), error 2.7e-03, 4.25 s to make ready"
    )
    assert f"made ready      {said}\n" in page
    assert "2 entries, " in page
    assert "openvino" in page
    told: dict[str, Any] = json.loads(run("info", "--json").out)
    assert told["cache"]["entries"] == 2
    assert told["made_ready"][0]["error"] == 2.71e-3
    assert set(told["backends"]) >= {"torch", "openvino"}


def test_info_says_what_auto_takes(run: Run, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "made ready" not in run("info").out
    assert "backend         torch: FEWSTEP_BACKEND says so" in run("info").out
    monkeypatch.delenv("FEWSTEP_BACKEND")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "backend         torch: openvino is not installed: pip install 'fewstep[cpu]'" in run("info").out
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert "where it is measured to be faster" in run("info").out


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (6584920, "6.28 MiB"), (4 << 30, "4 GiB")],
)
def test_a_size_in_words(count: int, text: str) -> None:
    assert size_of(count) == text

"""Cold starts: a process of its own for each contender, a limit for each, and where the numbers go."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from fewstep.bench import open_subject
from fewstep.bench.cold import ColdStart, cold_starts, start_of, with_cold
from fewstep.bench.contenders import BARE, DIFFUSERS, EAGER, ENGINE, Contender
from fewstep.bench.results import MEASURED, Row
from support.bench_case import tiny_subject

NUMBERS = {"status": MEASURED, "import_seconds": 1.0, "load_seconds": 0.5, "compile_seconds": 4.0, "peak_bytes": 7}
Answer = Callable[[dict[str, Any], dict[str, str]], subprocess.CompletedProcess[bytes]]


def answered(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    def run(command: list[str], input: bytes, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return answer(json.loads(input), env)

    monkeypatch.setattr("fewstep.bench.cold.subprocess.run", run)


def done(output: str, errors: str = "") -> subprocess.CompletedProcess[bytes]:
    return subprocess.CompletedProcess([], 0, output.encode(), errors.encode())


def start(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> ColdStart:
    answered(monkeypatch, answer)
    (found,) = cold_starts(tiny_subject(), [Contender(ENGINE), Contender(BARE)], 4)
    return found


def test_what_compiles_for_long_starts_again_with_the_caches_it_left(monkeypatch: pytest.MonkeyPatch) -> None:
    caches, batches = [], []

    def answer(task: dict[str, Any], env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
        caches.append({name: env[name] for name in ("FEWSTEP_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")})
        batches.append(task["batch"])
        return done(json.dumps(NUMBERS | {"compile_seconds": 4.0 / len(caches) ** 2}))

    found = start(monkeypatch, answer)
    assert (found.compile_seconds, found.cached_seconds) == (4.0, 1.0)
    assert caches[0] == caches[1]
    assert len(set(caches[0].values())) == 3
    assert batches == [4, 1]


def test_what_only_warms_up_starts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = start(monkeypatch, lambda *_: done("a warning\n" + json.dumps(NUMBERS | {"compile_seconds": 0.1})))
    assert (found.status, found.compile_seconds, found.cached_seconds) == (MEASURED, 0.1, None)


def test_a_start_that_takes_too_long_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(task: dict[str, Any], env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
        raise subprocess.TimeoutExpired("python", 300)

    assert start(monkeypatch, answer).status == "failed: took longer than 300 s"


def test_what_was_told_before_the_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(task: dict[str, Any], env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
        told = {name: value for name, value in NUMBERS.items() if name != "peak_bytes"}
        raise subprocess.TimeoutExpired("python", 300, output=json.dumps(told | {"compile_seconds": 0.5}).encode())

    found = start(monkeypatch, answer)
    assert (found.status, found.load_seconds, found.peak_bytes) == (MEASURED, 0.5, None)


def test_a_start_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    found = start(monkeypatch, lambda *_: done("", "Traceback:\nImportError: nothing of that name\n"))
    assert found.status == "failed: ImportError: nothing of that name"


def test_rows_get_the_columns_of_their_contender() -> None:
    rows = [Row("m", "ddim", 1, 1, ENGINE, MEASURED), Row("m", "ddim", 1, 1, EAGER, "absent")]
    starts = [ColdStart(ENGINE, **NUMBERS), ColdStart(EAGER, **NUMBERS)]  # type: ignore[arg-type]
    first, second = with_cold(rows, starts)
    assert (first.load_s, first.compile_s, first.capture_s, first.peak_bytes) == (0.5, 4.0, None, 7)
    assert second == rows[1]


@pytest.mark.slow
def test_a_start_tells_its_times_before_it_looks_for_the_peak() -> None:
    told: list[Any] = []
    source = {"name": "digits", "device": "cpu", "max_batch": 2}
    found = start_of(Contender(ENGINE), source, 2, 1.5, told.append)
    assert found["status"] == MEASURED
    assert (found["import_seconds"], found["capture_seconds"]) == (1.5, None)
    assert told[0].items() <= found.items()
    assert set(found) - set(told[0]) == {"peak_bytes", "host_bytes"}


@pytest.mark.long
def test_a_cold_start_is_measured_in_a_process_of_its_own() -> None:
    found = cold_starts(open_subject("digits"), [Contender(ENGINE), Contender(DIFFUSERS)], 2)
    assert [each.contender for each in found] == [ENGINE, DIFFUSERS]
    engine, diffusers = found
    assert engine.status == MEASURED
    for seconds in (engine.import_seconds, engine.load_seconds, engine.first_image_seconds):
        assert seconds is not None
        assert seconds > 0
    assert engine.peak_bytes is not None
    assert engine.peak_bytes > 2**20
    assert diffusers.status != MEASURED  # digits is not in its format
    assert diffusers.peak_bytes is None

"""The fuzz of what is read: a reduced run finds nothing, and each kind of fault that it looks for is found."""

import json
import random
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep.errors import ModelError
from support.folders import everything
from support.tree import ROOT

sys.path.append(str(ROOT / "tools"))
import fuzz
import fuzz_mutators
import fuzz_targets
from fuzz_targets import Target, spoil


@pytest.fixture(scope="module")
def every() -> list[Target]:
    return fuzz_targets.targets()


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_spoilt_files_end_in_one_line_in_time_and_within_memory(
    every: list[Target], tmp_path: Path, count: int
) -> None:
    found = list(fuzz.cases(7, range(count), every, tmp_path))
    wrong = [(number, target.name, outcome) for target, number, outcome in found
             if outcome.kind not in (fuzz.GOOD, fuzz.REFUSED)]  # fmt: skip
    assert wrong == []
    assert {target.name for target, _, _ in found} == {target.name for target in every}
    kinds = [outcome.kind for _, _, outcome in found]
    assert min(kinds.count(fuzz.GOOD), kinds.count(fuzz.REFUSED)) > count / 10


def hangs() -> None:
    while True:
        pass


def takes(size: int) -> None:
    held = bytearray(size)
    held[::4096] = bytes([1]) * len(held[::4096])


def raises(error: BaseException) -> None:
    raise error


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an error of Python's": (lambda folder: raises(KeyError("x")), "KeyError"),
    "more memory than it says": (lambda folder: takes(400 << 20), "over memory"),
    "an endless loop": (lambda folder: hangs(), "hung"),
    "no file named": (lambda folder: raises(ModelError("it is wrong")), "names no file"),
    "a page of words": (lambda folder: raises(ModelError(f"{folder}: {'x' * 5000}")), "not one line"),
    "an exit": (lambda folder: sys.exit(3), "SystemExit"),
    "a wrong end": (lambda folder: "this is wrong", "wrong"),
    "a refusal": (lambda folder: raises(ModelError(f"{folder / 'a'}: is wrong")), fuzz.REFUSED),
    "a result": (lambda folder: None, fuzz.GOOD),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_kind_of_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(fuzz, "CPU_SECONDS", 1)
    read, kind = FAULTS[fault]
    target = Target("planted", {"a": b"content"}, {}, read)  # type: ignore[arg-type]
    ((_, _, outcome),) = fuzz.cases(0, [0], [target], tmp_path)
    assert outcome.kind == kind
    if kind not in (fuzz.GOOD, fuzz.REFUSED):
        assert json.loads((tmp_path / "0" / "case.json").read_text())["kind"] == kind
        assert fuzz.replayed(tmp_path / "0", [target]).kind == kind


def test_a_case_is_a_function_of_its_seed_and_number(every: list[Target], tmp_path: Path) -> None:
    for target in every:
        if target.name != "the newest checkpoint":  # its forgeries hold fingerprints of what torch computes
            assert spoil(target, random.Random("a")) == spoil(target, random.Random("a")), target.name
    one = Target("planted", {"a": bytes(range(256)), "b": b"{}"}, {}, lambda folder: raises(KeyError("x")))  # type: ignore[arg-type]
    held = []
    for place, seed, number in (("one", 7, 3), ("again", 7, 3), ("another number", 7, 4), ("another seed", 8, 3)):
        list(fuzz.cases(seed, [number], [one], tmp_path / place))
        held.append(everything(tmp_path / place / str(number)))
        del held[-1]["case.json"]  # says how long it took
    assert held[0] == held[1]
    assert held[0] not in held[2:]


def test_a_sound_set_of_files_is_read(every: list[Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "spoil", lambda target, _: (dict(target.files), []))
    for target in every:
        folder = tmp_path / target.name
        folder.mkdir()
        fuzz.write(folder, target, 0, 0)
        outcome = fuzz.run(target, folder)
        assert (target.name, outcome.kind) == (target.name, fuzz.REFUSED if target.name == "nothing" else fuzz.GOOD)


def summed(data: bytes) -> bool:
    """Whether every chunk of a PNG has the checksum of its name and content."""
    at, right = 8, True
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        right &= data[end : end + 4] == zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return right


def test_a_png_that_is_changed_keeps_its_checksums() -> None:
    whole = fuzz_mutators.png_file([(b"IHDR", bytes(13)), (b"IEND", b"")])
    assert fuzz_mutators.png_chunks(whole) == [(b"IHDR", bytes(13)), (b"IEND", b"")]
    assert summed(whole)
    assert not summed(whole[:-1] + b"\0")
    changed = {fuzz_mutators.png_changed(random.Random(seed), whole) for seed in range(50)}
    assert len(changed) > 10
    assert all(summed(each) for each in changed)

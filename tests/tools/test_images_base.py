"""The images of two trees compared: what counts as the same, and what the hook keeps of an example and of tests."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.tree import ROOT

sys.path.append(str(ROOT / "tools"))
import images_base as tool

pytestmark = pytest.mark.slow

EXAMPLE = """
import sys, torch, fewstep
from fewstep import schedules
net = torch.nn.Conv2d(1, 1, 1).eval()
torch.nn.init.constant_(net.weight, {weight})
net.forward = lambda x, t: torch.nn.functional.conv2d(x, net.weight)
engine = fewstep.Engine(fewstep.Model(net, schedule=schedules.linear(), shape=(1, 4, 4)))
engine.sample(2, steps=2)
engine.sample(1, steps=1, seeds=5)
"""
TESTS = "def test_it(tmp_path):\n    exec({example!r}, {{}})\n\ndef test_other():\n    assert True\n"


def a_tree(folder: Path, weight: float = 0.5) -> Path:
    """The packages of this tree, an example and a test."""
    folder.mkdir()
    for name in ("engine", "kernels"):
        (folder / name).symlink_to(ROOT / name)
    example = EXAMPLE.format(weight=weight)
    (folder / "examples").mkdir()
    (folder / "examples/few.py").write_text(example)
    (folder / "tests").mkdir()
    (folder / "tests/test_few.py").write_text(TESTS.format(example=example))
    return folder


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setattr(tool, "EXAMPLES", ("few.py",))
    return {tool.BASE: a_tree(tmp_path / "base"), tool.PRESENT: a_tree(tmp_path / "present", weight=0.5 + 1e-6)}


def test_every_call_of_an_example_is_compared(two: dict[str, Path]) -> None:
    ((what, found),) = tool.rows(two, None)
    assert (what, list(found)) == ("few.py", ["example"])
    assert 1e-8 < found["example"] < 1e-4


def test_a_tests_calls_are_kept_by_its_name(two: dict[str, Path]) -> None:
    kept = tool.sampled(two[tool.BASE], "pytest", ["tests", "it"])
    assert {key: images.shape for key, images in kept.items()} == {"test_it/1": (2, 1, 4, 4), "test_it/2": (1, 1, 4, 4)}
    assert tool.compare(kept, kept) == {"test_it": 0.0}


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (np.array([1.0, -2.0, np.nan]), 0.0),
        (np.array([1.0, -2.002, np.nan]), 0.001),
        (np.array([1.0, -2.0, 3.0]), float("inf")),
        (np.array([1.0, -2.0]), float("inf")),
        (np.array([1.0, -2.0, np.nan], dtype=np.float32), float("inf")),
    ],
    ids=["same bits", "a value", "a NaN", "a shape", "a dtype"],
)
def test_the_difference_is_relative_to_the_largest_value(other: Any, expected: float) -> None:
    assert tool.difference(np.array([1.0, -2.0, np.nan]), other) == pytest.approx(expected, rel=1e-3)


def test_one_call_more_or_less_is_a_difference() -> None:
    one, two = {"a/1": np.ones(2)}, {"a/1": np.ones(2), "a/2": np.ones(2)}
    assert tool.compare(one, two) == {"a": float("inf")}
    assert tool.compare(two, two) == {"a": 0.0}


def test_what_fails_is_refused(two: dict[str, Path]) -> None:
    (two[tool.BASE] / "examples/few.py").write_text("raise ValueError('no')")
    with pytest.raises(tool.Refused, match=r"few\.py failed in .*base"):
        list(tool.rows(two, None))


def test_a_revision_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert tool.main(["nowhere"], tmp_path) == 1
    assert "revision: got 'nowhere'" in capsys.readouterr().err

"""--backend and --dtype of `generate` and `evaluate`: what is refused, what is told, and what a picture remembers."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from fewstep.engine import Engine
from fewstep.results import read_parameters
from support.cli_case import Run, pixels


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--backend", "tpu"], "backend: got 'tpu'; allowed: auto, torch, compile, openvino"),
        (["--backend", "openvin"], "backend: got 'openvin'; allowed: auto, torch, compile, openvino"),
        (
            ["--backend", "openvino", "--dtype", "float16"],
            "backend: got 'openvino'; allowed: torch in float16: others run in float32 or bfloat16",
        ),
        (["--threads", 0, "--backend", "openvino"], "threads: got 0; allowed: an integer from 1 to 1024"),
    ],
    ids=["no backend", "nearly one", "its dtype", "no threads"],
)
@pytest.mark.parametrize("verb", ["generate", "evaluate"])
def test_what_is_not_to_be_had_is_one_line(
    run: Run, heights: Path, verb: str, options: list[object], error: str
) -> None:
    data = ["--data", "digits", "--n", 10] if verb == "evaluate" else []
    assert run(verb, heights, *data, "--device", "cpu", *options).error.startswith(error)


def test_the_environment_is_held_to_the_same_names(
    run: Run, heights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEWSTEP_BACKEND", "nonsense")
    made = ("generate", heights, "--labels", 5, "--device", "cpu", "-o", tmp_path / "out.png")
    assert run(*made).error == "FEWSTEP_BACKEND: got 'nonsense'; allowed: auto, torch, compile, openvino"
    assert run(*made, "--backend", "torch").code == 0  # which asks it nothing


@pytest.mark.parametrize("source", [None, "raise OSError('libopenvino.so: cannot be opened')"], ids=["none", "broken"])
def test_without_its_library_torch_runs_and_one_line_says_why(
    run: Run, heights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    if source is not None:
        (tmp_path / "openvino.py").write_text(source)
        monkeypatch.delitem(sys.modules, "openvino")
        monkeypatch.syspath_prepend(tmp_path)
    made = ("generate", heights, "--labels", 5, "--seed", 0, "--device", "cpu", "-o", tmp_path / "out.png")
    ran = run(*made, "--backend", "openvino", "--json")
    assert ran.code == 0
    (line,) = ran.err.splitlines()
    assert line.startswith("warning: openvino: cannot be imported" if source else "warning: openvino: not installed")
    assert line.endswith("; pip install 'fewstep[cpu]' installs it; torch runs the network")
    assert json.loads(ran.out)["backend"] == read_parameters(tmp_path / "out.png")["backend"] == "torch"


@pytest.mark.slow
def test_a_picture_remembers_what_ran_and_is_made_again_with_it(
    run: Run, heights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    out, made = tmp_path / "out.png", ("generate", heights, "--labels", 5, "--seed", 0, "--device", "cpu")
    ran = run(*made, "--backend", "openvino", "--dtype", "bfloat16", "-o", out)
    assert (ran.code, ran.err) == (0, "")
    assert "2 by openvino" in ran.out
    told = json.loads(run("info", out, "--json").out)
    assert (told["backend"], told["dtype"]) == ("openvino", "bfloat16")
    assert "--backend openvino" in told["again"]
    again = tmp_path / "again.png"
    assert run(*shlex.split(told["again"])[1:], "--device", "cpu", "-o", again).code == 0
    assert (pixels(out) == pixels(again)).all()
    by_torch = tmp_path / "torch.png"
    assert run(*made, "--backend", "torch", "-o", by_torch).code == 0
    assert abs(pixels(out) - pixels(by_torch)).max() <= 12


def test_a_picture_by_torch_is_made_again_by_torch(run: Run, heights: Path, tmp_path: Path) -> None:
    """Where OpenVINO is installed, auto may take it, and the last bits would differ."""
    out = tmp_path / "out.png"
    assert run("generate", heights, "--labels", 5, "--seed", 0, "--device", "cpu", "-o", out).code == 0
    assert "--backend torch" in json.loads(run("info", out, "--json").out)["again"]


def test_an_engine_says_what_ran(heights: Path) -> None:
    engine = Engine.from_pretrained(heights, device="cpu", backend="torch")
    assert engine.backend == "torch"
    assert repr(engine).endswith("float32 on cpu)")
    samples = engine.sample(labels=[5.0], seeds=0)
    assert samples.parameters_of(0)["backend"] == engine.backend == "torch"
    stopped = engine.sample(labels=[5.0] * 40, seeds=0, callback=lambda step: False)
    assert [stopped.parameters_of(place).get("backend") for place in (0, 39)] == ["torch", None]
    engine._network.used = "openvino"
    assert repr(engine).endswith("float32 on cpu by openvino)")

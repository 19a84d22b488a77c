"""The command line and distilled models: the scale they take, the plans they were trained for."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fewstep.cli.verb import in_options
from fewstep.engine import Engine
from fewstep.errors import FewstepError
from fewstep.results import read_parameters
from support.cli_case import CONFIG, Run, tiny_model


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes the guidance scale as an input."""
    config = replace(CONFIG, num_classes=11, guidance_range=(1.0, 4.0))
    fields = {
        "labels": {"kind": "classes", "count": 10, "null": 10},
        "guidance": {"min": 1.0, "max": 4.0, "default": 1.5},
    }
    return tiny_model(tmp_path_factory.mktemp("models") / "guided", config, **fields)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Was distilled for two steps of DDIM."""
    fields = {"trained": {"sampler": "ddim", "steps": [2]}}
    return tiny_model(tmp_path_factory.mktemp("models") / "trained", CONFIG, **fields)


def test_pictures_and_info_tell_the_scale(run: Run, guided: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    ran = run("generate", guided, "--labels", "3,4", "--seed", 1, "--guidance-scale", 2.5, "-o", out, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["guidance_scale"] == 2.5
    assert read_parameters(out)["guidance_scale"] == "2.5"
    assert read_parameters(tmp_path / "out-001.png")["guidance_scale"] == "2.5"
    assert "--guidance-scale 2.5" in json.loads(run("info", out, "--json").out)["again"]
    about = run("info", guided).out
    assert "1 to 4, an input of the network; 1.5 by default" in about
    refused = run("generate", guided, "--labels", 3, "--guidance-scale", 7, "-o", out)
    assert refused.code == 2
    assert refused.error.startswith("--guidance-scale: got 7.0; allowed: a number from 1 to 4")


@pytest.mark.slow
def test_cost_counts_a_student_without_its_second_half(run: Run, guided: Path) -> None:
    ran = run("info", guided, "--cost", "--json")
    assert ran.code == 0, ran.err
    assert run("info", guided, "--cost", "--guidance-scale", 3).code == 2


@pytest.mark.parametrize("more", [[], ["--json"], ["--quiet"]], ids=["plain", "json", "quiet"])
def test_the_command_line_warns_in_one_plain_line(run: Run, trained: Path, tmp_path: Path, more: list[str]) -> None:
    ran = run("generate", trained, "--steps", 3, "--seed", 0, "-o", tmp_path / "out.png", *more)
    assert ran.code == 0
    assert ran.err.count("\n") == 1
    assert ran.err == (
        "warning: tiny was trained for ddim with 2 steps, and is asked for ddim with 3 steps: expect worse samples; "
        "ask for --steps 2, or take the model it was distilled from\n"
    )
    silent = run("generate", trained, "--seed", 0, "-o", tmp_path / "out.png", *more)
    assert (silent.code, silent.err) == (0, "")


def test_info_tells_what_a_model_was_trained_for(run: Run, trained: Path) -> None:
    ran = run("info", trained, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["trained_for"] == "ddim with 2 steps"
    assert "trained for" in run("info", trained).out


def test_a_warning_advises_what_the_command_line_can_do(run: Run, trained: Path, tmp_path: Path) -> None:
    Image.linear_gradient("L").save(tmp_path / "image.png")
    start = ("--image", tmp_path / "image.png", "--strength", 0.5)
    ran = run("generate", trained, *start, "-o", tmp_path / "out.png")
    assert ran.code == 0
    assert ran.err.endswith("; ask for --strength 1, or take the model it was distilled from\n")
    assert "engine." not in ran.err


def test_the_warning_of_a_library_is_one_line_without_its_source(
    run: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = Engine.sample

    def warned(*arguments: Any, **named: Any) -> Any:
        for _ in range(2):
            warnings.warn("something\nto know", UserWarning, stacklevel=1)
        return sample(*arguments, **named)

    monkeypatch.setattr(Engine, "sample", warned)
    ran = run("generate", trained, "-o", tmp_path / "out.png", "--json")
    assert ran.err == "warning: something to know\n"
    assert json.loads(ran.out)["steps"] == 2


def test_an_error_speaks_of_options_and_leaves_python_out(
    run: Run, guided: Path, trained: Path, tmp_path: Path
) -> None:
    out = ("-o", tmp_path / "out.png")
    assert run("generate", trained, "--guidance-scale", "nan", *out).error == (
        "--guidance-scale: got nan; allowed: a finite number"
    )
    assert run("generate", guided, "--guidance-rescale", 0.5, *out).error.startswith(
        "--guidance-rescale: got 0.5; allowed: 0: this model takes the guidance scale as an input"
    )
    ran = run("generate", trained, "--guidance-scale", 3, *out, "--json")
    assert json.loads(ran.out)["error"]["argument"] == "guidance_scale"
    assert ran.err == "error: --guidance-scale: got 3.0; allowed: 1: there is no null label to guide from\n"


def test_the_name_of_an_option_within_a_path_stays() -> None:
    options = {"guidance_scale": "--guidance-scale", "n": "--n"}
    error = FewstepError("/models/guidance_scale/x.json: no n; a lower guidance_scale, not guidance_scale=2")
    assert in_options(error, options) == (
        "/models/guidance_scale/x.json: no n; a lower --guidance-scale, not guidance_scale=2"
    )

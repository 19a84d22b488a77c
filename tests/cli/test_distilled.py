"""The command line and distilled models: the scale they take, the plans they were trained for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

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
    assert refused.error.startswith("guidance_scale: got 7.0; allowed: a number from 1 to 4")


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
    assert ran.err.startswith("warning: tiny was trained for ddim with 2 steps, and is asked for ddim with 3 steps")
    assert ".py" not in ran.err
    silent = run("generate", trained, "--seed", 0, "-o", tmp_path / "out.png", *more)
    assert (silent.code, silent.err) == (0, "")


def test_info_tells_what_a_model_was_trained_for(run: Run, trained: Path) -> None:
    ran = run("info", trained, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["trained_for"] == "ddim with 2 steps"
    assert "trained for" in run("info", trained).out

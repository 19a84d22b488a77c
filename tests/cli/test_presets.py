"""Presets on the command line: --plan, what it writes and repeats, and the table."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import DDPMPipeline, EulerDiscreteScheduler

from fewstep import UntrainedPlanWarning
from fewstep.cli.verb import advice
from fewstep.presets import PRESETS
from fewstep.results import read_parameters
from support.cli_case import CONFIG, Run, tiny_model
from support.diffusers_case import SMALL, random_model


@pytest.fixture(scope="module")
def latent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes and a null class, on the schedule of Stable Diffusion."""
    fields = {"labels": {"kind": "classes", "count": 10, "null": 10}, "schedule": {"name": "scaled_linear"}}
    config = replace(CONFIG, num_classes=11)
    return tiny_model(tmp_path_factory.mktemp("models") / "latent", config, **fields)


def test_a_picture_of_a_preset_is_made_again_by_it(run: Run, latent: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    ran = run("generate", latent, "--labels", 3, "--seed", 1, "--plan", "tcd", "--steps", 2, "-o", out, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["sampler"] == "tcd"
    assert read_parameters(out)["plan"] == "tcd"
    again = json.loads(run("info", out, "--json").out)["again"]
    assert "--plan tcd" in again
    assert "--sampler" not in again
    first = out.read_bytes()
    assert run(*shlex.split(again)[1:], "-o", out).code == 0
    assert out.read_bytes() == first


def test_a_wrong_setting_is_told_in_options(run: Run, latent: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    ran = run(
        "generate", latent, "--labels", 3, "--plan", "lightning-4", "--guidance-scale", 7, "--steps", 3, "-o", out
    )
    steps, guided = ran.err.splitlines()
    assert ran.code == 0
    assert steps.startswith("warning: a model of lightning-4 was trained for euler with 4 steps and guidance_scale 1")
    assert "ask for --steps 4, or take" in steps
    assert "ask for --guidance-scale 1, or take" in guided


def test_who_asks_for_what_a_folder_looks_like_is_not_told_to(run: Run, tmp_path: Path) -> None:
    folder, out = tmp_path / "sdxl-lightning-4step", tmp_path / "out.png"
    DDPMPipeline(random_model(SMALL), EulerDiscreteScheduler(timestep_spacing="leading")).save_pretrained(folder)
    asked = ["generate", folder, "--seed", 0, "-o", out, "--steps", 2, "--plan"]
    right = run(*asked[:-3], "--plan", "lightning-4")
    assert (right.code, right.err) == (0, "")
    other = run(*asked, "lightning-2")
    assert (other.code, other.err.count("\n")) == (0, 1)
    assert other.err.endswith("where trailing is meant; ask for --plan lightning-4\n")


def test_advice_that_no_option_can_follow_stays_in_words() -> None:
    told = UntrainedPlanWarning("at other levels", "leave the spacing as it is, lcm", {"spacing": "lcm"})
    assert advice(told) == "at other levels; leave the spacing as it is, lcm"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--plan", "lightening-4"], "did you mean 'lightning-4'?"),
        (["--plan", "lightning-1"], "plan: got lightning-1, for a network that predicts x_0; allowed: one for eps"),
        (["--plan", "lcm", "--sampler", "ddim"], "sampler: got 'ddim'; allowed: nothing beside lcm"),
    ],
)
def test_what_cannot_be_is_one_line(run: Run, latent: Path, more: list[str], said: str) -> None:
    ran = run("generate", latent, "--labels", 3, *more)
    assert ran.code == 2
    assert said in ran.error


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_table_fits_the_page(run: Run, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    ran = run("info", "--presets")
    assert (ran.code, ran.err) == (0, "")
    assert all(name in ran.out for name in PRESETS)
    if columns > 60:  # a cell may be wider
        assert max(map(len, ran.out.splitlines())) <= columns


def test_the_table_as_json_has_its_sources(run: Run) -> None:
    told = {preset["name"]: preset for preset in json.loads(run("info", "--presets", "--json").out)["presets"]}
    assert list(told) == list(PRESETS)
    assert told["lightning-4"]["source"] == "https://huggingface.co/ByteDance/SDXL-Lightning"
    assert told["dmd2-4"]["defaults"]["spacing"] == [999, 749, 499, 249]
    assert run("info", "digits", "--presets").error.startswith("presets: got True; allowed: nothing beside it")

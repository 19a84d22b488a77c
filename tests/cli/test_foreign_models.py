"""What others ship, on the command line: every advice that an error gives can be followed."""

from pathlib import Path

import pytest
from diffusers import DDPMPipeline, DPMSolverMultistepScheduler, UNet2DModel

from fewstep.results import read_parameters
from support.cli_case import Run
from support.diffusers_case import SMALL, random_model


@pytest.fixture(scope="module")
def model() -> UNet2DModel:
    return random_model(SMALL)


def test_a_sampler_of_ones_own_opens_a_pipeline_without_one_here(run: Run, model: UNet2DModel, tmp_path: Path) -> None:
    DDPMPipeline(model, DPMSolverMultistepScheduler()).save_pretrained(tmp_path / "m")
    out = tmp_path / "out.png"
    for asked in ((), ("--steps", 3), ("--sampler", "ddim")):
        error = run("generate", tmp_path / "m", *asked, "--out", out).error
        assert "got 'DPMSolverMultistepScheduler', whose sampler fewstep does not have" in error
        assert error.endswith("or say what to sample with, a sampler and its steps such as ddim and 50")
    assert run("generate", tmp_path / "m", "--sampler", "ddim", "--steps", 3, "--seed", 0, "--out", out).code == 0
    assert read_parameters(out)["steps"] == "3"


def test_a_variant_is_picked(run: Run, model: UNet2DModel, tmp_path: Path) -> None:
    for variant in ("fp16", "ema"):
        model.save_pretrained(tmp_path / "m", variant=variant)
    out = tmp_path / "out.png"
    error = run("generate", tmp_path / "m", "--steps", 1, "--out", out).error
    assert "allowed: a variant, one of 'ema', 'fp16'" in error
    assert run("generate", tmp_path / "m", "--steps", 1, "--variant", "ema", "--out", out).code == 0

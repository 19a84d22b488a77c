"""What others ship, on the command line: every advice that an error gives can be followed."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DPMSolverSinglestepScheduler, UNet2DModel

from fewstep import Engine
from fewstep.results import read_parameters
from support.cli_case import Run, pixels
from support.diffusers_case import SMALL, random_model


@pytest.fixture(scope="module")
def model() -> UNet2DModel:
    return random_model(SMALL)


def test_a_sampler_of_ones_own_opens_a_pipeline_without_one_here(run: Run, model: UNet2DModel, tmp_path: Path) -> None:
    DDPMPipeline(model, DPMSolverSinglestepScheduler()).save_pretrained(tmp_path / "m")
    out = tmp_path / "out.png"
    for asked in ((), ("--steps", 3), ("--sampler", "ddim")):
        error = run("generate", tmp_path / "m", *asked, "--out", out).error
        assert "got 'DPMSolverSinglestepScheduler', whose sampler fewstep does not have" in error
        assert error.endswith("or say what to sample with, a sampler and its steps such as ddim and 50")
    assert run("generate", tmp_path / "m", "--sampler", "ddim", "--steps", 3, "--seed", 0, "--out", out).code == 0
    assert read_parameters(out)["steps"] == "3"


def test_a_variant_is_picked(run: Run, model: UNet2DModel, tmp_path: Path) -> None:
    folder, averaged = tmp_path / "m", copy.deepcopy(model)
    with torch.no_grad():
        averaged.conv_out.bias += 1
    model.save_pretrained(folder, variant="fp16")
    averaged.save_pretrained(folder, variant="ema")
    out = tmp_path / "out.png"
    error = run("generate", folder, "--steps", 1, "--out", out).error
    assert "allowed: a variant, one of 'ema', 'fp16'" in error
    found = {}
    for variant in ("fp16", "ema"):
        words = (
            "--steps",
            1,
            "--seed",
            0,
            "--device",
            "cpu",
            "--variant",
            variant,
            "--out",
            tmp_path / f"{variant}.png",
        )
        assert run("generate", folder, *words).code == 0
        found[variant] = pixels(tmp_path / f"{variant}.png")
        expected = Engine.from_pretrained(folder, device="cpu", variant=variant).sample(seeds=0, steps=1).numpy()[0]
        np.testing.assert_array_equal(found[variant], expected)
    assert (found["fp16"] != found["ema"]).any()

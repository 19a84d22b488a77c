"""Teachers that predict eps or score: their students predict what is bounded at every level, and learn."""

import csv
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from fewstep import Engine
from fewstep.errors import ArgumentError
from fewstep.models.load import save_model
from fewstep.models.net.unet import UNet
from fewstep.models.spec import ModelSpec
from fewstep.train import DistillConfig, TrainConfig, distill, train
from fewstep.train.distill import fixed, student_prediction
from support.loading_case import CONFIG, SPEC
from support.train_case import SETTINGS, bars_file, settings_file

QUICK: dict[str, Any] = {
    "batch": 16, "warmup": 10, "learning_rate": 3e-3, "ema": 0.95, "log_every": 20, "sheet_every": 0, "guidance": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predicts eps on DDPM's own schedule, at whose last step 1 / signal is 157."""
    folder = tmp_path_factory.mktemp("eps")
    text = SETTINGS.replace("steps = 24", "steps = 160", 1).replace("sheet_every = 12", "sheet_every = 0")
    text = text.replace('name = "cosine"\nnum_timesteps = 50', 'name = "linear"\nnum_timesteps = 1000')
    config = TrainConfig.from_toml(settings_file(folder, text), TrainConfig(prediction="eps"))
    train(TrainConfig.from_dict({"data": str(bars_file(folder))}, config), folder / "model")
    return folder / "model"


def spec_of(**fields: Any) -> ModelSpec:
    return replace(SPEC, **fields)


def saved(folder: Path, spec: ModelSpec) -> str:
    save_model(folder, UNet(spec.unet), spec)
    return str(folder)


def losses_of(out: Path) -> list[float]:
    with (out / "loss.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def errors_of_one_step(teacher: Path, student: Path, walk: int, **how: Any) -> tuple[float, float]:
    """How far one step of the teacher and one of the student are from the teacher's walk from the same noise."""
    own, learnt = (Engine.from_pretrained(folder, device="cpu") for folder in (teacher, student))
    walked, one = (own.sample(32, steps=steps, sampler="ddim", clip=1.0, seeds=0, **how).images for steps in (walk, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = learnt.sample(32, seeds=0, **how).images
    far, near = (float((images - walked).square().mean()) for images in (one, other))
    return far, near


@pytest.mark.long
@pytest.mark.parametrize(("method", "walk", "steps"), [("progressive", 4, 80), ("consistency", 8, 300)])
def test_a_student_of_one_step_learns_from_a_teacher_of_eps(
    teacher: Path, tmp_path: Path, method: str, walk: int, steps: int
) -> None:
    values = {"method": method, "student_steps": 1, "teacher_steps": walk, "steps": steps}
    data, out = str(teacher.parent / "bars.npz"), tmp_path / "student"
    distill(DistillConfig.from_dict({**QUICK, **values, "teacher": str(teacher), "data": data}), out)
    spec = json.loads((out / "fewstep.json").read_text())
    assert spec["prediction"] == "v"
    assert "v prediction for eps" in spec["notes"][0]
    far, near = errors_of_one_step(teacher, out, walk, labels=[0, 1] * 16)
    print(method, losses_of(out), far, near)
    assert losses_of(out)[-1] < losses_of(out)[0]
    assert near < 0.5 * far


@pytest.mark.slow
def test_a_pipeline_of_diffusers_that_predicts_eps_is_distilled(tmp_path: Path) -> None:
    """DDPM's own schedule, at whose last step 1 / signal is 157."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), norm_num_groups=4,
        add_attention=False,
    )  # fmt: skip
    folder, out = tmp_path / "pipeline", tmp_path / "student"
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    values = {"teacher": str(folder), "data": str(bars_file(tmp_path)), "student_steps": 1, "teacher_steps": 4}
    config = DistillConfig.from_dict({**QUICK, **values, "steps": 60})
    with pytest.raises(ArgumentError, match="with 2 classes; allowed: the teacher's None"):
        distill(config, tmp_path / "refused")
    distill(replace(config, data=str(unlabelled(tmp_path))), out)
    engine = Engine.from_pretrained(out, device="cpu")
    samples = engine.sample(2, seeds=0)
    assert (engine.model.prediction, samples.plan.sampler, samples.model_calls) == ("v", "ddim", 1)
    far, near = errors_of_one_step(folder, out, 4)
    print(losses_of(out), far, near)
    assert losses_of(out)[-1] < 0.9 * losses_of(out)[0]
    assert near < 0.5 * far


def unlabelled(folder: Path) -> Path:
    import numpy as np

    from support.train_case import bars

    path = folder / "plain.npz"
    np.savez(path, images=bars()[0])
    return path


@pytest.mark.parametrize(
    ("schedule", "prediction", "expected"),
    [
        ({"name": "linear", "num_timesteps": 100}, "eps", "v"),
        ({"name": "linear", "num_timesteps": 100}, "score", "v"),
        ({"name": "linear", "num_timesteps": 100}, "x_0", "x_0"),
        ({"name": "karras", "num_timesteps": 40, "time": "sigma"}, "eps", "x_0"),
        ({"name": "flow", "num_timesteps": 100}, "flow", "flow"),
    ],
    ids=["eps", "score", "bounded already", "variance exploding", "flow"],
)
def test_a_student_predicts_what_is_bounded(schedule: dict[str, Any], prediction: str, expected: str) -> None:
    taught = spec_of(schedule=schedule, prediction=prediction, plan={"sampler": "ddim", "steps": 4})
    assert student_prediction(None, taught) == expected
    assert student_prediction("x_0", taught) == "x_0"


def test_the_prediction_is_a_setting_that_a_resumed_run_keeps() -> None:
    assert "prediction" in fixed()
    assert DistillConfig(prediction="flow").prediction == "flow"
    with pytest.raises(ArgumentError, match="prediction: got 'score'; allowed: eps or x_0 or v or flow"):
        DistillConfig(prediction="score")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {
                "schedule": {"name": "linear", "num_timesteps": 100, "zero_terminal_snr": True},
                "plan": {"sampler": "ddim", "steps": 4, "spacing": "leading"},
            },
            r"teacher: got .*, which predicts eps on a linear schedule; allowed: one of v, x_0 or flow there: where no",
        ),
        (
            {
                "schedule": {"name": "karras", "num_timesteps": 40, "time": "consistency"},
                "prediction": "consistency",
                "plan": {"sampler": "consistency", "steps": 1},
            },
            r"teacher: got .*, which predicts consistency; allowed: a diffusion model",
        ),
        (
            {"plan": {"sampler": "ddim", "steps": 4, "clip": {"limit": 1.5, "ratio": 0.9}}},
            r"teacher: got a plan with a dynamic threshold",
        ),
    ],
    ids=["zero terminal SNR", "a consistency model", "a dynamic threshold"],
)
def test_what_cannot_be_distilled_is_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    config = replace(CONFIG, num_classes=2)
    labels = {"kind": "classes", "count": 2, "null": None}
    folder = saved(tmp_path / "teacher", spec_of(unet=config, labels=labels, **fields))
    values = {"teacher": folder, "data": str(bars_file(tmp_path)), "student_steps": 2}
    with pytest.raises(ArgumentError, match=message):
        distill(DistillConfig.from_dict({**QUICK, **values, "steps": 1}), tmp_path / "student")
    assert not (tmp_path / "student").exists()

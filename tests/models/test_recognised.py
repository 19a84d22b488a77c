"""Folders of diffusers that are recognised: what the preset adds, and what their own files keep."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDIMScheduler, DDPMPipeline, EulerDiscreteScheduler, LCMScheduler, UNet2DModel

from fewstep import Model, UntrainedPlanWarning
from fewstep.models.recognise import recognised
from fewstep.models.spec import ModelSpec
from fewstep.presets import PRESETS

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def folder_of(path: Path, scheduler: Any, **index: str) -> Path:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    widths = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": 4}
    DDPMPipeline(UNet2DModel(sample_size=8, **blocks, **widths), scheduler).save_pretrained(path)
    file = path / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | index))
    return path


def euler(spacing: str) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(timestep_spacing=spacing, **BETAS)


def quiet(folder: Path, **options: Any) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntrainedPlanWarning)
        return Model.from_pretrained(folder, **options)


@pytest.mark.parametrize("named_by", ["folder", "index"])
def test_a_folder_is_recognised_by_its_names(tmp_path: Path, named_by: str) -> None:
    name, index = (
        ("sdxl-lightning-4step", {}) if named_by == "folder" else ("x", {"_name_or_path": "a/lightning-4step"})
    )
    folder = folder_of(tmp_path / name, euler("trailing"), **index)
    model = quiet(folder)
    assert model.trained == PRESETS["lightning-4"].trained
    assert dict(model.defaults) == {"sampler": "euler", "steps": 4, "spacing": "trailing", "final": "clean"}


def test_the_note_tells_by_what(tmp_path: Path) -> None:
    from fewstep.models.load import open_folder

    _, spec = open_folder(folder_of(tmp_path / "sdxl-lightning-4step", euler("trailing")))
    expected = "recognised as lightning-4 (SDXL-Lightning) by the folder's name, sdxl-lightning-4step"
    assert expected in spec.notes
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_scheduler_left_from_the_teacher_is_told_and_kept(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "sdxl-lightning-4step", euler("leading"))
    with pytest.warns(UntrainedPlanWarning) as caught:
        model = Model.from_pretrained(folder)
    (warning,) = [each.message for each in caught if isinstance(each.message, UntrainedPlanWarning)]
    assert "looks like lightning-4 by the folder's name, sdxl-lightning-4step, but its scheduler has" in str(warning)
    assert "leading spacing, where trailing is meant" in str(warning)
    assert warning.instead == {"plan": "lightning-4"}
    assert caught[0].filename == __file__
    assert model.trained is None
    assert model.defaults["spacing"] == "leading"
    right = quiet(folder, defaults="lightning-4")
    assert right.trained == PRESETS["lightning-4"].trained
    assert right.defaults["spacing"] == "trailing"


@pytest.mark.parametrize(
    ("name", "scheduler", "said"),
    [
        (
            "sdxl-lightning-4step",
            DDIMScheduler(timestep_spacing="trailing", **BETAS),
            "is ddim, which would have to",
        ),
        (
            "sdxl-lightning-1step",
            euler("trailing"),
            "is for a network that predicts eps on a schedule of kind vp",
        ),
    ],
    ids=["sampler", "prediction"],
)
def test_another_sampler_and_another_prediction_are_told(tmp_path: Path, name: str, scheduler: Any, said: str) -> None:
    with pytest.warns(UntrainedPlanWarning, match=said):
        assert Model.from_pretrained(folder_of(tmp_path / name, scheduler)).trained is None


def test_what_a_caller_says_is_not_doubted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "sdxl-lightning-4step", euler("leading"))
    model = quiet(folder, defaults={"sampler": "ddim", "steps": 20})
    assert (model.defaults["sampler"], model.trained) == ("ddim", None)
    assert quiet(folder, trained=None).trained is None


def test_a_file_keeps_what_it_says(tmp_path: Path) -> None:
    """The preset's eta and steps come beside a clip of the file's own."""
    scheduler = LCMScheduler(clip_sample=True, clip_sample_range=2.0, **BETAS)
    model = quiet(folder_of(tmp_path / "lcm-lora-sdxl", scheduler))
    assert model.defaults["clip"] == 2.0
    assert model.trained == PRESETS["lcm-lora"].trained
    assert quiet(folder_of(tmp_path / "model", scheduler)).trained is None


@pytest.mark.parametrize(
    ("scheduler", "unet", "preset"),
    [
        ("LCMScheduler", {"time_cond_proj_dim": 256}, "lcm"),
        ("LCMScheduler", {"time_cond_proj_dim": None}, None),
        ("TCDScheduler", {}, "tcd"),
        ("SCMScheduler", {}, "sana-sprint"),
        ("FlowMapEulerDiscreteScheduler", {}, "anyflow"),
        ("EulerDiscreteScheduler", {}, None),
    ],
)
def test_configs_that_tell_without_a_name(scheduler: str, unet: dict[str, Any], preset: str | None) -> None:
    found = recognised({"the folder's name": "model"}, scheduler, unet)
    assert (None if found is None else found.preset.name) == preset

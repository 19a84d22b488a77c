"""Model folders: what is saved is loaded, and what diffusers' configs say becomes a spec."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    UNet2DModel,
)

from fewstep.diffusion.samplers import make_plan
from fewstep.diffusion.schedules import from_config
from fewstep.errors import ArgumentError, OutputError
from fewstep.models.layouts.diffusers_scheduler import sampling_from_scheduler
from fewstep.models.load import load_model, open_folder, save_model
from fewstep.models.net.unet import UNet
from fewstep.models.spec import ModelSpec
from support.loading_case import CONFIG, SPEC, refusal


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    unet = UNet(CONFIG)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return unet


def small_unet_2d_model(**changes: Any) -> UNet2DModel:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    widths = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": 4}
    return UNet2DModel(**{"sample_size": 8} | blocks | widths | changes)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_saved_model_loads_bit_for_bit(unet: UNet, tmp_path: Path) -> None:
    save_model(tmp_path / "models" / "tiny", unet, SPEC)
    loaded, spec = load_model(tmp_path / "models" / "tiny")
    assert spec == SPEC
    assert not loaded.training
    for name, tensor in unet.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert sorted(files_of(tmp_path)) == ["models/tiny/fewstep.json", "models/tiny/model.safetensors"]


def test_a_spec_survives_json() -> None:
    assert ModelSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC


def test_half_precision_keeps_fourier_frequencies_whole(tmp_path: Path) -> None:
    small_unet_2d_model(time_embedding_type="fourier").save_pretrained(tmp_path)
    loaded, _ = load_model(tmp_path, dtype=torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    assert dtypes.pop("time.features.frequencies") == torch.float32
    assert set(dtypes.values()) == {torch.bfloat16}


def test_a_dtype_of_integers_is_refused(unet: UNet, tmp_path: Path) -> None:
    save_model(tmp_path / "tiny", unet, SPEC)
    with pytest.raises(ArgumentError, match=r"dtype: got torch.int8; allowed: torch.float64, torch.float32"):
        load_model(tmp_path / "tiny", dtype=torch.int8)


def test_a_folder_is_overwritten_only_when_told(unet: UNet, tmp_path: Path) -> None:
    save_model(tmp_path / "tiny", unet, SPEC)
    before = files_of(tmp_path)
    with torch.no_grad():
        unet.conv_in.bias += 1
    with pytest.raises(OutputError, match="exists already; allowed: a new or empty folder, or overwrite"):
        save_model(tmp_path / "tiny", unet, SPEC)
    assert files_of(tmp_path) == before
    save_model(tmp_path / "tiny", unet, SPEC, overwrite=True)
    assert torch.equal(load_model(tmp_path / "tiny")[0].conv_in.bias, unet.conv_in.bias)


def test_a_spec_of_another_unet_is_refused(tmp_path: Path) -> None:
    other = UNet(replace(CONFIG, channels=(8, 12)))
    with pytest.raises(ArgumentError, match="spec: got 'tiny'; allowed: a spec whose unet is the U-Net's config"):
        save_model(tmp_path / "tiny", other, SPEC)


def test_a_full_disk_leaves_nothing_behind(unet: UNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"tiny/.*: cannot be written: no space left on device"):
        save_model(tmp_path / "tiny", unet, SPEC)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(unet: UNet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/tiny/model.safetensors: cannot be written: not a directory"):
        save_model(tmp_path / "file" / "tiny", unet, SPEC)


def test_a_ddpm_pipeline_keeps_its_scheduler(tmp_path: Path) -> None:
    scheduler = DDPMScheduler(num_train_timesteps=200, variance_type="fixed_large", clip_sample_range=2.0)
    DDPMPipeline(small_unet_2d_model(), scheduler).save_pretrained(tmp_path)
    _, spec = load_model(tmp_path)
    assert (spec.name, spec.family, spec.prediction, spec.notes) == (tmp_path.name, "ddpm", "eps", ())
    assert spec.plan == {
        "sampler": "ddpm",
        "steps": 200,
        "variance": "fixed_large",
        "spacing": "leading",
        "clip": 2.0,
    }


def test_a_ddim_pipeline_keeps_its_scheduler(tmp_path: Path) -> None:
    scheduler = DDIMScheduler(
        steps_offset=1, set_alpha_to_one=False, prediction_type="v_prediction", thresholding=True, sample_max_value=3.0
    )
    DDIMPipeline(small_unet_2d_model(num_class_embeds=5), scheduler).save_pretrained(tmp_path)
    _, spec = load_model(tmp_path)
    assert spec.prediction == "v"
    assert spec.labels == {"kind": "classes", "count": 5, "null": None}
    assert spec.plan == {
        "sampler": "ddim",
        "steps": 50,
        "final": "first",
        "spacing": "leading",
        "offset": 1,
        "clip": {"limit": 3.0, "ratio": 0.995},
    }


def test_a_consistency_pipeline_becomes_one_step(tmp_path: Path) -> None:
    scheduler = CMStochasticIterativeScheduler(sigma_max=40.0)
    ConsistencyModelPipeline(small_unet_2d_model(), scheduler).save_pretrained(tmp_path)
    _, spec = load_model(tmp_path)
    plan = make_plan(schedule=from_config(spec.schedule), prediction=spec.prediction, **spec.plan)
    scheduler.set_timesteps(1)
    assert len(plan) == 1
    assert plan.column("t")[0] == pytest.approx(scheduler.timesteps[0].item(), rel=1e-6)
    assert plan.init_scale == pytest.approx(40.0)


SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {},
    "scaled-linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 400},
    "trained-betas": {"trained_betas": [0.1, 0.2, 0.3, 0.4], "num_train_timesteps": 4},
    "zero-terminal-snr": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
}


@pytest.mark.parametrize("options", SCHEDULES.values(), ids=SCHEDULES)
def test_the_noise_schedule_is_the_schedulers(options: dict[str, Any]) -> None:
    scheduler = DDIMScheduler(**options)
    sampling = sampling_from_scheduler(json.loads(scheduler.to_json_string()), "scheduler_config.json")
    ours = from_config(sampling.schedule).alphas_cumprod
    np.testing.assert_allclose(ours, scheduler.alphas_cumprod.numpy(), rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"_class_name": "ScoreSdeVeScheduler"},
            "_class_name: got 'ScoreSdeVeScheduler', which is not known; supported",
        ),
        ({"beta_schedule": "laplace"}, "beta_schedule: got 'laplace'; supported: linear, scaled_linear"),
        ({"variance_type": "learned"}, "variance_type: got 'learned'; supported: fixed_small"),
        ({"prediction_type": "flow"}, "prediction_type: got 'flow'; supported: epsilon, sample, v_prediction"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps: got 1000000000; allowed: an integer from 1 to"),
        ({"clip_sample": "yes"}, "clip_sample: got 'yes'; allowed: true or false"),
        ({"trained_betas": [2.0]}, "trained_betas[0]: got 2.0; allowed: a number from 0 to 1"),
        ({"trained_betas": [0.5] * 4}, "num_train_timesteps: got 1000; allowed: 4, the number of trained_betas"),
        ({"steps_offset": 1000}, "steps_offset: got 1000; allowed: an integer from 0 to 999"),
        ({"beta_start": 0}, "beta_start: got 0.0; allowed: a number in (0, 1)"),
        (
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            "its default plan cannot be made: prediction: got 'eps'",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_scheduler_that_is_not_supported_is_named(changes: dict[str, Any], reason: str) -> None:
    data = json.loads(DDPMScheduler().to_json_string()) | changes
    message = refusal(lambda: sampling_from_scheduler(data, "scheduler_config.json"))
    assert message.startswith("scheduler_config.json: " + reason)


def test_a_bare_unet_2d_model_notes_what_was_assumed(tmp_path: Path) -> None:
    small_unet_2d_model().save_pretrained(tmp_path)
    _, spec = load_model(tmp_path)
    assert spec.schedule == {"name": "linear", "num_timesteps": 1000}
    assert "a linear schedule of 1000 steps and eps prediction are assumed" in spec.notes[0]


def test_a_pipeline_of_other_parts_is_refused(tmp_path: Path) -> None:
    DDPMPipeline(small_unet_2d_model(), DDPMScheduler()).save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"unet": ["os", "system"]}))
    assert refusal(lambda: load_model(tmp_path)).startswith(f"{index}: unet: got ['os', 'system']; supported: diff")
    index.write_text(json.dumps(content | {"_class_name": "EvilPipeline"}))
    assert "_class_name: got 'EvilPipeline'; supported: DDPMPipeline" in refusal(lambda: load_model(tmp_path))


def test_a_unet_without_a_size_is_refused(tmp_path: Path) -> None:
    small_unet_2d_model(sample_size=None).save_pretrained(tmp_path)
    assert "config.json: sample_size: got None; allowed: an integer from 1" in refusal(lambda: load_model(tmp_path))


def test_weights_as_a_pickle_need_leave(tmp_path: Path) -> None:
    model = small_unet_2d_model()
    model.save_pretrained(tmp_path, safe_serialization=False)
    message = refusal(lambda: load_model(tmp_path))
    assert message.startswith(f"{tmp_path / 'diffusion_pytorch_model.bin'}: is a pickle")
    unet, _ = load_model(tmp_path, allow_pickle=True)
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([3.0])
    with torch.no_grad():
        torch.testing.assert_close(unet(x, t), model.eval()(x, t).sample, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_info_reads_a_folder_without_its_weights(unet: UNet, tmp_path: Path) -> None:
    save_model(tmp_path / "tiny", unet, SPEC)
    (tmp_path / "tiny" / "model.safetensors").unlink()
    weights, spec = open_folder(tmp_path / "tiny")
    assert spec == SPEC
    assert weights.path.name == "model.safetensors"

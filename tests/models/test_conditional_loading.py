"""Folders of Stable Diffusion as diffusers saves them: the U-Net in every form of weights, and what a pipeline says."""

import inspect
import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fewstep import Engine, Model, UntrainedPlanWarning
from fewstep.cli import main
from fewstep.models.layouts.diffusers_pipelines import CONDITIONED, PIPELINES
from fewstep.models.load import load_model, open_folder, save_model
from fewstep.models.net.conditional import ConditionalUNet
from fewstep.models.spec import ModelSpec
from fewstep.presets import PRESETS
from fewstep.request.guidance import ClassifierFree, EmbeddedGuidance
from support.conditional_configs import REDUCED, condition_inputs, random_unet
from support.loading_case import refusal

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SAID = {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}


@cache
def reduced(name: str) -> UNet2DConditionModel:
    """Made once: no test changes it."""
    return random_unet(REDUCED[name])


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return reduced("sd1")


def pipeline_of(
    path: Path, unet: UNet2DConditionModel, scheduler: Any, pipeline: str = "StableDiffusionPipeline", **index: Any
) -> Path:
    """A pipeline's folder with the two parts that are read, beside the names of those that are not."""
    unet.save_pretrained(path / "unet")
    scheduler.save_pretrained(path / "scheduler")
    parts = {"unet": ["diffusers", CONDITIONED], "scheduler": ["diffusers", type(scheduler).__name__]}
    parts |= {"vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"]}
    (path / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **parts, **index}))
    return path


def ddim(**changes: Any) -> diffusers.DDIMScheduler:
    return diffusers.DDIMScheduler(**(BETAS | SAID | changes))


@torch.no_grad()
def beside(unet: UNet2DConditionModel, config: dict[str, Any], ours: Any) -> tuple[Tensor, Tensor]:
    """What ours and diffusers' predict of the same."""
    given = condition_inputs(config)
    added = given.get("added_cond_kwargs", {})
    named = {
        "context": given["encoder_hidden_states"],
        "labels": given.get("class_labels"),
        "guidance": given.get("timestep_cond"),
        "pooled": added.get("text_embeds"),
        "sizes": added.get("time_ids"),
    }
    return ours(given["sample"], given["timestep"], **named), unet(**given).sample


def same(folder: Path | str, unet: UNet2DConditionModel, tolerance: float = 1e-5, **options: Any) -> bool:
    """Whether the folder loads as what predicts as the U-Net does."""
    mine, theirs = beside(unet, dict(unet.config), load_model(folder, **options)[0])
    return float((mine - theirs).abs().max() / theirs.abs().max()) <= tolerance


@pytest.mark.parametrize("name", ["sd1", "sdxl", "lcm", "inpainting", "upscaler", "unusual"])
def test_a_folder_is_opened_by_the_class_that_its_config_names(name: str, tmp_path: Path) -> None:
    unet = reduced(name)
    unet.save_pretrained(tmp_path)
    loaded, spec = load_model(tmp_path)
    assert isinstance(loaded, ConditionalUNet)
    assert not loaded.training
    assert spec.family == "sd"
    channels = min(unet.config.in_channels, unet.config.out_channels)
    assert spec.shape == (channels, 16, 16)
    assert same(tmp_path, unet)
    assert "Stable Diffusion's schedule of 1000 steps and eps prediction are assumed" in spec.notes[0]
    assert spec.plan == {"sampler": "ddim", "steps": 50, "spacing": "leading", "offset": 1, "final": "first"} | {
        "clip": None
    }


def test_shards_variants_and_pickles_are_read(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    unet.save_pretrained(tmp_path / "shards", max_shard_size="300KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert same(tmp_path / "shards", unet)
    half = random_unet(REDUCED["sd1"]).to(torch.float16)
    half.save_pretrained(tmp_path / "half", variant="fp16", max_shard_size="300KB")
    assert same(tmp_path / "half", unet, 5e-2)
    assert same(tmp_path / "half", unet, 5e-2, variant="fp16")
    assert load_model(tmp_path / "half", dtype=torch.float16)[0].dtype == torch.float16
    unet.save_pretrained(tmp_path / "half")
    assert same(tmp_path / "half", unet)  # the plain one, where there is one
    unet.save_pretrained(tmp_path / "pickle", safe_serialization=False)
    assert "is a pickle, which may run code when read" in refusal(lambda: load_model(tmp_path / "pickle"))
    assert same(tmp_path / "pickle", unet, allow_pickle=True)


@pytest.mark.parametrize("name", ["sdxl", "lcm", "unusual"])
def test_our_own_folder_gives_back_what_was_saved(name: str, tmp_path: Path) -> None:
    unet = reduced(name)
    theirs = pipeline_of(tmp_path / "theirs", unet, ddim())
    loaded, spec = load_model(theirs)
    save_model(tmp_path / "ours", loaded, spec)
    again, same_spec = load_model(tmp_path / "ours")
    assert same_spec == spec
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    for (key, mine), other in zip(loaded.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, other), key
    assert same(tmp_path / "ours", unet)


def test_convert_and_info_take_a_pipeline(
    unet: UNet2DConditionModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pipeline_of(tmp_path / "theirs", unet, ddim())
    assert main(["convert", "folder", "--source", str(folder), "--out", str(tmp_path / "ours")]) == 0
    assert same(tmp_path / "ours", unet)
    capsys.readouterr()
    for each in (folder, tmp_path / "ours"):
        assert main(["info", str(each), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["family"], said["shape"], said["prediction"]) == ("sd", [4, 16, 16], "eps")
        assert said["defaults"]["guidance_scale"] == 7.5
        assert said["guidance_scale"] == "any, from two halves; 7.5 by default"


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_what_a_pipeline_does_unless_told_is_what_diffusers_says(pipeline: str) -> None:
    kind = getattr(diffusers, pipeline)
    scale = inspect.signature(kind.__call__).parameters.get("guidance_scale")
    assert PIPELINES[pipeline].guidance_scale == (None if scale is None else scale.default)
    source = inspect.getsource(kind.__init__)
    set_right = {name for name in ("steps_offset", "clip_sample") if f'new_config["{name}"]' in source}
    assert set(PIPELINES[pipeline].set_right) == set_right


def test_a_pipeline_says_schedule_prediction_plan_and_guidance(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    folder = pipeline_of(tmp_path / "v", unet, ddim(prediction_type="v_prediction", rescale_betas_zero_snr=True))
    spec = open_folder(folder)[1]
    assert spec.prediction == "v"
    assert spec.schedule["zero_terminal_snr"]
    assert (spec.plan["sampler"], spec.plan["guidance_scale"]) == ("ddim", 7.5)
    euler = diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **BETAS)
    xl = pipeline_of(tmp_path / "xl", unet, euler, "StableDiffusionXLPipeline")
    spec = open_folder(xl)[1]
    assert (spec.plan["sampler"], spec.plan["guidance_scale"], spec.plan["offset"]) == ("euler", 5.0, 1)
    model = Model.from_pretrained(xl)
    assert model.guidance == ClassifierFree(5.0)
    told = Model.from_pretrained(xl, defaults={"sampler": "ddim", "steps": 3}, prediction="v")
    assert (told.guidance, told.prediction) == (ClassifierFree(1.0), "v")


def test_a_file_of_before_is_read_as_its_pipeline_sets_it_right(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    """StableDiffusionPipeline writes steps_offset 1 and clip_sample false over what a scheduler's file says."""
    old = diffusers.DDIMScheduler(**BETAS, steps_offset=0, clip_sample=True)
    plan = open_folder(pipeline_of(tmp_path / "old", unet, old))[1].plan
    assert (plan["offset"], plan["clip"]) == (1, None)
    plan = open_folder(pipeline_of(tmp_path / "other", unet, old, "StableDiffusionControlNetPipeline"))[1].plan
    assert (plan.get("offset", 0), plan["clip"]) == (0, 1.0)


@pytest.mark.parametrize(
    ("size", "shape", "note"),
    [
        (24, (4, 24, 24), None),
        ([16, 25], (4, 16, 25), None),  # sides that are halved to odd ones
        (None, (4, 64, 64), "the config has no sample_size: latents of 64 x 64 are assumed"),
    ],
    ids=["one", "two", "none"],
)
def test_the_shape_is_that_of_the_latents(
    size: Any, shape: tuple[int, ...], note: str | None, unet: UNet2DConditionModel, tmp_path: Path
) -> None:
    unet.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": size}))
    spec = open_folder(tmp_path)[1]
    assert spec.shape == shape
    assert note is None or note in spec.notes
    assert Model.from_pretrained(tmp_path, shape=(4, 8, 8)).shape == (4, 8, 8)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": [1, 2, 3]}))
    assert "sample_size: has 3 entries" in refusal(lambda: open_folder(tmp_path))
    assert Model.from_pretrained(tmp_path, shape=(4, 8, 8)).shape == (4, 8, 8)


def test_a_model_samples_with_a_context_and_its_pair(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    """The folder's own guidance scale is run by two halves, as a loop of diffusers runs it."""
    scheduler = ddim()
    engine = Engine.from_pretrained(pipeline_of(tmp_path, unet, scheduler), device="cpu")
    generator = torch.Generator().manual_seed(3)
    context, null = torch.randn(2, 1, 7, 32, generator=generator).unbind()
    noise = torch.randn(1, 4, 16, 16, generator=generator)
    ours = engine.sample(1, steps=3, condition={"context": (context, null)}, noise=noise).images
    scheduler.set_timesteps(3)
    x = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            without, cond = (unet(x, t, each).sample for each in (null, context))
            x = scheduler.step(without + 7.5 * (cond - without), t, x).prev_sample
    assert float((ours - x).abs().max() / x.abs().max()) < 1e-4


FAMILIES = {
    "sd-turbo": ("sd-turbo", "StableDiffusionPipeline", "sd1", "euler"),
    "sdxl-turbo": ("sdxl-turbo", "StableDiffusionXLPipeline", "sdxl", "euler_ancestral"),
    "sdxl-lightning-4step": ("lightning-4", "StableDiffusionXLPipeline", "sdxl", "euler"),
    "LCM_Dreamshaper_v7": ("lcm", "LatentConsistencyModelPipeline", "lcm", "lcm"),
    "lcm-sdxl": ("lcm", "StableDiffusionXLPipeline", "sdxl", "lcm"),
    "Hyper-SD15-4steps": ("hyper-4", "StableDiffusionPipeline", "sd1", "ddim"),
}
SCHEDULERS = {
    "euler": lambda: diffusers.EulerDiscreteScheduler(timestep_spacing="trailing", **BETAS),
    "euler_ancestral": lambda: diffusers.EulerAncestralDiscreteScheduler(timestep_spacing="trailing", **BETAS),
    "lcm": lambda: diffusers.LCMScheduler(**BETAS),
    "ddim": lambda: ddim(timestep_spacing="trailing"),
}


@pytest.mark.parametrize("folder", FAMILIES)
def test_a_distilled_family_is_recognised_by_its_folder(folder: str, tmp_path: Path) -> None:
    preset, pipeline, config, scheduler = FAMILIES[folder]
    path = pipeline_of(tmp_path / folder, reduced(config), SCHEDULERS[scheduler](), pipeline)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntrainedPlanWarning)
        model = Model.from_pretrained(path)
    assert model.trained == PRESETS[preset].trained
    expected = PRESETS[preset].defaults
    assert {name: model.defaults[name] for name in expected} == expected
    assert "guidance_scale" not in model.defaults
    if config == "lcm":
        assert model.guidance == EmbeddedGuidance(0.0, 100.0, 8.5)
    else:
        assert model.guidance == ClassifierFree(1.0)


def test_a_latent_consistency_model_takes_the_scale_as_an_input(tmp_path: Path) -> None:
    unet = reduced("lcm")
    folder = pipeline_of(tmp_path, unet, diffusers.LCMScheduler(**BETAS), "LatentConsistencyModelPipeline")
    engine = Engine.from_pretrained(folder, device="cpu")
    context = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(3))
    images = [
        engine.sample(1, steps=1, seeds=0, condition={"context": context}, **scale).images
        for scale in ({}, {"guidance_scale": 8.5}, {"guidance_scale": 4})
    ]
    assert torch.equal(images[0], images[1])
    assert not torch.allclose(images[0], images[2])

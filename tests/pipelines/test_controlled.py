"""Whole runs of an engine made of a pipeline with a ControlNet, beside the pipeline's own; and what is refused."""

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file

from fewstep import ArgumentError, Engine, ModelError
from fewstep.pipelines.controlled import ControlledUNet
from fewstep.pipelines.folder import load_pipeline
from fewstep.run.graphs.runner import GraphRunner
from support import pipelines_case
from support.pipelines_case import NEGATIVES, PROMPTS, SIZE, call, picture
from support.recorder import RecorderCapturer
from support.runners import BUDGET

SCALES = (1.5, 0.5)
KINDS = ("controlnet", "xl controlnet")

made = functools.cache(pipelines_case.pipeline)


def pipeline(kind: str) -> Any:
    """A pipeline of one's own, to be changed."""
    return copy.deepcopy(made(kind))


@functools.cache
def engine(kind: str) -> Engine:
    return Engine.from_pipeline(made(kind), decoder=None)


def noise(count: int) -> torch.Tensor:
    return torch.randn(count, 4, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(0))


@functools.cache
def expected(kind: str, place: int) -> torch.Tensor:
    """The latents of the untouched pipeline for one of two samples, [1, 4, 16, 16]."""
    arguments = call(kind) | {"prompt": PROMPTS[place], "negative_prompt": NEGATIVES[place], "image": picture(place)}
    scale = {"controlnet_conditioning_scale": SCALES[place], "latents": noise(2)[place, None]}
    latents: torch.Tensor = pipeline(kind)(**arguments, **scale, output_type="latent").images
    return latents


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("kind", [KINDS[0], pytest.param(KINDS[1], marks=pytest.mark.slow)])
def test_four_guided_steps_end_in_the_latents_of_the_pipeline(kind: str) -> None:
    said: dict[str, Any] = {"guidance_scale": 2.0, "steps": 4}
    wanted = torch.cat([expected(kind, 0), expected(kind, 1)])
    words = {"prompt": PROMPTS[:2], "negative_prompt": NEGATIVES[:2]}
    control = {"control_image": [picture(0), picture(1)], "control_scale": list(SCALES)}
    both = engine(kind).sample(**words, **control, **said, noise=noise(2)).images
    first = {"prompt": PROMPTS[0], "negative_prompt": NEGATIVES[0], "control_image": picture(0), "control_scale": 1.5}
    alone = engine(kind).sample(**first, **said, noise=noise(2)[:1]).images
    errors = relative(both[:1], wanted[:1]), relative(both[1:], wanted[1:]), relative(alone, wanted[:1])
    print(f"{kind}, 4 steps: {max(errors):.1e} of the largest latent; 1e-4 is allowed")
    assert max(errors) <= 1e-4
    other = engine(kind).sample(**first | {"control_scale": 0.0}, **said, noise=noise(2)[:1]).images
    assert relative(other, wanted[:1]) > 0.01


def test_a_picture_is_the_same_however_it_is_given() -> None:
    said: dict[str, Any] = {"prompt": "a", "steps": 1, "seeds": 0}
    first = engine("controlnet").sample(**said, control_image=picture()).images
    pixels = np.asarray(picture())
    floats = torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    for given in (pixels, floats, floats[0].numpy()):
        assert relative(engine("controlnet").sample(**said, control_image=given).images, first) <= 1e-5
    for several in ([picture()] * 2, floats.expand(2, -1, -1, -1), iter([pixels, picture()])):
        images = engine("controlnet").sample(**said, control_image=several, control_scale=np.ones(2)).images
        assert relative(images[:1], first) <= 1e-5


@pytest.mark.slow
def test_another_picture_and_scale_are_no_other_graph() -> None:
    runner = GraphRunner(RecorderCapturer(), BUDGET)
    running = Engine.from_pipeline(made("xl controlnet"), runner=runner)
    running.warm_up([{"n": 1, "steps": 2, "guidance_scale": 3.0}])
    before = runner.stats()["captures"]
    for place, scale in enumerate((1.0, 0.3, 2.0)):
        words = {"prompt": PROMPTS[place], "control_image": picture(place), "control_scale": scale}
        samples = running.sample(**words, guidance_scale=3.0, steps=2)
    assert runner.stats()["captures"] == before
    assert samples.images.shape == (1, 3, SIZE, SIZE)
    assert samples.parameters[0]["control_scale"] == "2"  # type: ignore[index]


def test_a_lora_changes_the_unet_and_leaves_the_controlnet_and_the_pipeline_as_they_were() -> None:
    pipe = pipeline("controlnet")
    own = Engine.from_pipeline(pipe, decoder=None)
    said: dict[str, Any] = {"prompt": "a", "steps": 1, "seeds": 0, "control_image": picture()}
    before = own.sample(**said).images
    controls = {name: tensor.clone() for name, tensor in pipe.controlnet.state_dict().items()}
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    rows = pipe.unet.get_submodule(name.removeprefix("unet.")).weight.shape
    own.load_lora({f"{name}.lora_A.weight": torch.ones(2, rows[1]), f"{name}.lora_B.weight": torch.ones(rows[0], 2)})
    assert relative(own.sample(**said).images, before) > 1e-4
    own.unload_lora()
    assert torch.equal(own.sample(**said).images, before)
    assert all(torch.equal(tensor, controls[key]) for key, tensor in pipe.controlnet.state_dict().items())
    assert isinstance(own.module, ControlledUNet)
    assert pipe(**call("controlnet"), output_type="latent").images.isfinite().all()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no picture": ({}, r"control_image: got None; allowed: a picture of 32x32 pixels and 3 channels"),
    "another size": (
        {"control_image": torch.zeros(3, 8, 8)},
        r"control_image: got shape \(1, 3, 8, 8\); allowed: \(3, 32, 32\)",
    ),
    "other values": ({"control_image": torch.full((3, SIZE, SIZE), 2.0)}, "control_image: got values from 2 to 2"),
    "a path": ({"control_image": "edges.png"}, "control_image: got a str"),
    "other counts": ({"n": 3, "control_image": [picture()] * 2}, "control_image: got 2 samples; allowed: 3"),
    "a scale that is no number": ({"control_image": picture(), "control_scale": "much"}, "control_scale: got 'much'"),
    "scales that are not finite": (
        {"control_image": picture(), "control_scale": float("nan")},
        "control_scale: got nan; allowed: a finite number",
    ),
    "a picture by hand": (
        {"control_image": picture(), "condition": {"control": (torch.zeros(1), torch.zeros(1))}},
        r"condition\['control'\]: got a tensor; allowed: nothing: it is said by control_image=",
    ),
    "diffusers' word for it": ({"controlnet_conditioning_scale": 1.0}, "controlnet_conditioning_scale.*control_scale"),
    "guess mode": ({"control_image": picture(), "guess_mode": True}, "guess_mode"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_words_that_do_not_fit_are_told(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        engine("controlnet").sample(prompt="a", steps=1, **words)


def test_a_picture_for_a_model_without_a_controlnet_is_told() -> None:
    plain = Engine.from_pipeline(made("text to image"), decoder=None)
    for words in ({"control_image": picture()}, {"control_image": np.zeros((8, 8))}, {"control_scale": 0.5}):
        with pytest.raises(ArgumentError, match=r"control_.*allowed: nothing: this model has no ControlNet"):
            plain.sample(prompt="a", steps=1, **words)


def several(pipe: Any) -> None:
    pipe.controlnet = type(made("controlnet"))(
        **{**pipe.components, "controlnet": [pipe.controlnet] * 2}, requires_safety_checker=False
    ).controlnet


def of_another_unet(pipe: Any) -> None:
    pipe.controlnet = ControlNetModel.from_unet(made("xl text to image").unet)


def without(pipe: Any) -> None:
    pipe.controlnet = None


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "several": (several, "pipe.controlnet: got a MultiControlNetModel; allowed: one ControlNetModel"),
    "of another U-Net": (of_another_unet, r"pipe.controlnet.config.layers_per_block: got 2; allowed: 1, as the U-Net"),
    "none": (without, "whose controlnet is None; allowed: one with its controlnet"),
    "offloaded": (
        lambda pipe: add_hook_to_module(pipe.controlnet, ModelHook()),
        r"pipe.controlnet: got hooks that offload.*remove_all_hooks",
    ),
    "guess mode in its config": (
        lambda pipe: pipe.controlnet.register_to_config(global_pool_conditions=True),
        "global_pool_conditions: got True; allowed: False",
    ),
    "pictures of another size": (
        lambda pipe: pipe.controlnet.register_to_config(conditioning_embedding_out_channels=(8, 8, 8)),
        "conditioning_embedding_out_channels: got 3 of them: pictures 4 times.*allowed: 2 times",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_controlnets_that_are_not_run_are_told(change: Callable[[Any], object], message: str) -> None:
    pipe = pipeline("controlnet")
    change(pipe)
    with pytest.raises(ArgumentError, match=message):
        Engine.from_pipeline(pipe)


def test_what_a_folder_lacks_of_a_controlnet_is_told(tmp_path: Path) -> None:
    folder = pipelines_case.saved("controlnet", tmp_path / "pipeline")
    index = json.loads((folder / "model_index.json").read_text())
    weights = folder / "controlnet/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors.pop("conv_in.weight")
    save_file(tensors, weights)
    for given, message in (
        (index["controlnet"], "controlnet: 1 tensors are missing: conv_in.weight"),
        ([None, None], "has no controlnet, after which a StableDiffusionControlNetPipeline draws"),
        (["diffusers", "MultiControlNetModel"], "controlnet: got .*; supported: diffusers' ControlNetModel"),
    ):
        (folder / "model_index.json").write_text(json.dumps(index | {"controlnet": given}))
        with pytest.raises(ModelError, match=message):
            load_pipeline(folder)


def test_an_opaque_unet_runs_without_controlnets() -> None:
    with pytest.raises(ArgumentError, match="opaque: got True; allowed: False: a ControlNet"):
        Engine.from_pipeline(made("controlnet"), opaque=True)

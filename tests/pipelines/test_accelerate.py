"""An accelerated pipeline of diffusers: the same call, the same outputs, and back."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AsymmetricAutoencoderKL, DiffusionPipeline, StableDiffusionImg2ImgPipeline
from diffusers.utils import logging

import fewstep
from fewstep.pipelines.unet import View
from support.accelerated import images, off
from support.pipelines_case import KINDS, call, pipeline

TOLERANCE = 1e-4
BATCHES = dict.fromkeys(["text to image", "xl image to image", "inpainting, 9 channels", "controlnet"], (1, 3))


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_gives_the_same_accelerated_and_the_very_same_restored(kind: str) -> None:
    pipe = pipeline(kind)
    parts = dict(pipe.components)
    untouched = {batch: images(pipe, kind, batch=batch) for batch in BATCHES.get(kind, (3,))}
    assert fewstep.accelerate(pipe) is pipe
    assert isinstance(pipe.unet, View)
    assert isinstance(pipe.unet, type(parts["unet"]))
    differences = {batch: off(images(pipe, kind, batch=batch), expected) for batch, expected in untouched.items()}
    print(kind, *(f"batch {batch}: {difference:.1e}" for batch, difference in differences.items()))
    assert max(differences.values()) <= TOLERANCE

    assert fewstep.restore(pipe) is pipe
    assert all(part is parts[name] for name, part in pipe.components.items())
    assert torch.equal(images(pipe, kind, batch=3), untouched[3])


def test_what_is_drawn_follows_the_prompt_the_negative_one_and_the_seed() -> None:
    pipe = fewstep.accelerate(pipeline("text to image"))
    one = images(pipe, "text to image")
    others = {
        "prompt": images(pipe, "text to image", prompt=["another one"]),
        "negative prompt": images(pipe, "text to image", negative_prompt=["another one"]),
        "seed": images(pipe, "text to image", seed=1),
        "guidance": images(pipe, "text to image", guidance_scale=3.0),
    }
    assert all(off(each, one) > 1e-3 for each in others.values())
    assert torch.equal(images(pipe, "text to image"), one)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text to image", "xl text to image"])
def test_every_way_to_ask_gives_the_same(kind: str) -> None:
    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(4)]

    pipe = pipeline(kind)
    ways: dict[str, dict[str, Any]] = {
        "several images a prompt": {"batch": 3, "num_images_per_prompt": 2},
        "a generator for each": {"batch": 2, "num_images_per_prompt": 2},
        "no negative prompt": {"negative": False},
        "no guidance": {"guidance_scale": 1.0},
        "rescaled guidance": {"guidance_rescale": 0.7},
        "an odd size": {"height": 40, "width": 24},
        "arrays": {"output_type": "np"},
        "pictures": {"output_type": "pil"},
    }
    if "xl" in kind:
        ways["sizes"] = {"original_size": (64, 64), "crops_coords_top_left": (8, 0), "negative_original_size": (8, 8)}

    def drawn(way: str) -> torch.Tensor:
        options = ways[way] | {"steps": 2}
        if way == "a generator for each":
            options["generator"] = generators()
        if options.get("output_type") == "pil":
            return torch.as_tensor(
                np.stack(
                    [np.asarray(each) for each in pipe(**(call(kind, steps=options.pop("steps")) | options)).images]
                )
            )
        return images(pipe, kind, **options)

    untouched = {way: drawn(way) for way in ways}
    fewstep.accelerate(pipe)
    for way, expected in untouched.items():
        ours = drawn(way)
        assert ours.shape == expected.shape, way
        assert off(ours, expected) <= (1 / 255 + 1e-6 if way == "pictures" else TOLERANCE), way


def test_callbacks_see_and_change_what_they_do_in_diffusers() -> None:
    seen: dict[str, list[Any]] = {}
    pipe = pipeline("text to image")

    def run(name: str) -> torch.Tensor:
        rows = seen[name] = []

        def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            rows.append((step, int(timestep), tensors["latents"].clone()))
            if step == 1:  # no guidance from here on, as diffusers' own docs do it
                pipe._guidance_scale = 0.0
                tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
            if step == 2:
                tensors["prompt_embeds"].mul_(0.5)  # in place
            return tensors

        asked = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
        return images(pipe, "text to image", batch=2, **asked)

    untouched = run("diffusers")
    fewstep.accelerate(pipe)
    assert off(run("fewstep"), untouched) <= TOLERANCE
    for theirs, ours in zip(seen["diffusers"], seen["fewstep"], strict=True):
        assert theirs[:2] == ours[:2]
        assert off(ours[2], theirs[2]) <= TOLERANCE


def test_an_interrupted_run_ends_where_diffusers_ends_it() -> None:
    def interrupt(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 1
        return tensors

    pipe = pipeline("xl text to image")
    untouched = images(pipe, "xl text to image", callback_on_step_end=interrupt)
    fewstep.accelerate(pipe)
    assert off(images(pipe, "xl text to image", callback_on_step_end=interrupt), untouched) <= TOLERANCE
    assert off(images(pipe, "xl text to image"), untouched) > 1e-2


def test_a_pipeline_made_of_an_accelerated_ones_parts_is_accelerated() -> None:
    kind = "image to image"
    expected = images(pipeline(kind), kind)
    pipe = fewstep.accelerate(pipeline("text to image"))
    made = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    for other in (StableDiffusionImg2ImgPipeline.from_pipe(pipe), made):
        other.set_progress_bar_config(disable=True)
        assert other.unet is pipe.unet
        assert off(images(other, kind), expected) <= TOLERANCE
    fewstep.restore(made)
    assert off(images(pipe, "text to image"), images(pipeline("text to image"), "text to image")) <= TOLERANCE


def test_a_view_is_of_the_class_that_diffusers_expects_and_of_no_other() -> None:
    text, pixels = pipeline("text to image").unet, pipeline("ddim").unet
    views = fewstep.accelerate(text), fewstep.accelerate(pixels)
    assert type(views[0]) in (type(text),)
    assert type(pixels) in (type(views[1]),)
    assert type(views[0]) not in (type(views[1]), type(pixels), object)
    assert len({type(text), type(views[0]), type(pixels)}) == 2


def test_accelerating_or_restoring_twice_changes_nothing_more() -> None:
    pipe = pipeline("ddim")
    unet = pipe.unet
    assert fewstep.restore(pipe).unet is unet
    view = fewstep.accelerate(pipe).unet
    assert fewstep.accelerate(pipe).unet is view
    assert fewstep.accelerate(view) is view
    assert fewstep.restore(fewstep.restore(pipe)).unet is unet
    assert fewstep.restore(unet) is unet


def test_tiling_that_is_asked_for_meanwhile_stays_and_another_autoencoder_is_left_alone() -> None:
    pipe = pipeline("text to image")
    vae = pipe.vae
    fewstep.accelerate(pipe).vae.enable_tiling()
    assert (pipe.vae.use_tiling, vae.use_tiling) == (True, False)
    fewstep.restore(pipe)
    assert pipe.vae is vae
    assert vae.use_tiling
    other = pipe.vae = AsymmetricAutoencoderKL(norm_num_groups=8, down_block_out_channels=(8,))
    assert fewstep.accelerate(pipe).vae is other
    pipe.vae = None
    assert isinstance(fewstep.accelerate(pipe).unet, View)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["xl text to image", "ddpm"])
def test_a_saved_pipeline_is_what_the_untouched_one_saves(kind: str, tmp_path: Any) -> None:
    pipe = pipeline(kind)
    untouched = images(pipe, kind)
    pipe.save_pretrained(tmp_path / "theirs")
    fewstep.accelerate(pipe).save_pretrained(tmp_path / "ours")

    def files(folder: str) -> dict[str, bytes]:
        found = (path for path in (tmp_path / folder).rglob("*") if path.is_file())
        return {str(path.relative_to(tmp_path / folder)): path.read_bytes() for path in found}

    assert files("ours") == files("theirs")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "ours")
    loaded.set_progress_bar_config(disable=True)
    assert off(images(loaded, kind), untouched) <= TOLERANCE


@pytest.mark.slow
def test_a_pipeline_cast_to_bfloat16_is_as_near_as_diffusers_own() -> None:
    kind = "text to image"
    pipe = pipeline(kind)
    exact = images(pipe, kind, steps=1)
    pipe.to(torch.bfloat16)
    theirs = off(images(pipe, kind, steps=1), exact)
    fewstep.accelerate(pipeline(kind)).to(torch.bfloat16)
    pipe = fewstep.accelerate(pipeline(kind))
    assert pipe.to(torch.bfloat16).unet.dtype == torch.bfloat16
    ours = off(images(pipe, kind, steps=1), exact)
    print(f"bfloat16, 1 step: diffusers {theirs:.1e}, fewstep {ours:.1e}")
    assert ours <= 2 * theirs
    assert off(images(pipe.to(torch.float32), kind, steps=1), exact) <= 0.05  # of weights that were rounded

"""Whole runs of an engine made of a pipeline of diffusers, beside the pipeline's own; and the prompts it reads."""

import copy
import functools
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, SASolverScheduler

from fewstep import ArgumentError, Engine, Image, Inpaint, ModelError, Plan, UntrainedPlanWarning, accelerate, restore
from fewstep.pipelines.prompts import PromptEncoder
from fewstep.run.graphs.runner import GraphRunner
from support import pipelines_case
from support.pipelines_case import NEGATIVES, PROMPTS, SCHEDULERS, SIZE, call, mask
from support.recorder import RecorderCapturer
from support.runners import BUDGET

LATENTS = (4, SIZE // 2, SIZE // 2)
RUNS = {
    "ddim": ("text to image", "ddim", False),
    "euler": ("text to image", "euler", False),
    "lcm": ("text to image", "lcm", False),
    "ddim, v": ("text to image, v", "ddim", False),
    "xl, ddim": ("xl text to image", "ddim", False),
    "xl, euler": ("xl text to image", "euler", False),
    "xl, lcm": ("xl text to image", "lcm", False),
    "a guidance input, lcm": ("latent consistency", "lcm", False),
    "diffusers' network": ("text to image", "ddim", True),
    "xl, diffusers' network": ("xl text to image", "euler", True),
    "a guidance input, diffusers' network": ("latent consistency", "lcm", True),
}


made = functools.cache(pipelines_case.pipeline)


def pipeline(kind: str) -> Any:
    """A pipeline of one's own, to be changed."""
    return copy.deepcopy(made(kind))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


class Counted:
    """How often each text encoder of a pipeline is called."""

    def __init__(self, pipe: Any) -> None:
        self.calls = 0
        for encoder in (pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
            if encoder is not None:
                encoder.register_forward_hook(self.count)

    def count(self, *_: object) -> None:
        self.calls += 1

    def since(self) -> int:
        found, self.calls = self.calls, 0
        return found


@pytest.mark.parametrize(("kind", "scheduler", "opaque"), RUNS.values(), ids=RUNS)
def test_four_steps_end_in_the_latents_of_the_pipeline(kind: str, scheduler: str, opaque: bool) -> None:
    pipe = pipeline(kind)
    if "v" not in kind.split():
        pipe.scheduler = SCHEDULERS[scheduler]()
    expected = pipe(**call(kind, batch=2), output_type="latent").images
    said = {"prompt": PROMPTS[:2], "negative_prompt": None if "consistency" in kind else NEGATIVES[:2]}
    engine = Engine.from_pipeline(pipe, opaque=opaque, decoder=None)
    found = engine.sample(**said, guidance_scale=2.0, steps=4, noise=generator()).images  # type: ignore[arg-type]
    error = relative(found, expected)
    print(f"{kind}, {scheduler}, 4 steps: {error:.1e} of the largest latent; 1e-4 is allowed")
    assert error <= 1e-4
    assert found.shape == (2, *LATENTS)


@pytest.mark.parametrize("kind", ["text to image", "xl text to image", "latent consistency"])
def test_an_engine_ends_in_the_pipelines_pictures_at_its_own_scale(kind: str) -> None:
    pipe = pipeline(kind)
    engine = Engine.from_pipeline(pipe)
    arguments = {"prompt": PROMPTS[0], "num_inference_steps": 4, "generator": generator()}
    expected = pipe(**arguments, output_type="pt").images
    samples = engine.sample(prompt=PROMPTS[0], steps=4, noise=generator())
    assert relative(samples.images.clamp(-1, 1), 2 * expected - 1) <= 1e-4
    assert samples.images.shape == (1, 3, SIZE, SIZE)
    scale = {"text to image": 7.5, "xl text to image": 5.0, "latent consistency": 8.5}[kind]
    assert samples.guidance_scale_of() == scale


def test_several_pictures_of_one_prompt_and_another_size() -> None:
    pipe = pipeline("xl text to image")
    engine = Engine.from_pipeline(pipe, height=24, width=40)
    size = {"height": 24, "width": 40, "num_inference_steps": 2, "output_type": "pt"}
    expected = pipe(PROMPTS[0], num_images_per_prompt=3, generator=generator(), **size).images
    found = engine.sample(3, prompt=PROMPTS[0], steps=2, noise=generator()).images
    assert relative(found.clamp(-1, 1), 2 * expected - 1) <= 1e-4
    sizes = {"original_size": (100, 90), "crops_coords_top_left": (3, 4), "target_size": (50, 60)}
    expected = pipe(PROMPTS[0], generator=generator(), **sizes, **size).images
    found = engine.sample(prompt=PROMPTS[0], sizes=sizes, steps=2, noise=generator()).images
    assert relative(found.clamp(-1, 1), 2 * expected - 1) <= 1e-4


@pytest.mark.parametrize("kind", ["ddpm", "ddim", "consistency"])
def test_pipelines_of_pixels_run_too(kind: str) -> None:
    pipe, steps = pipeline(kind), 1 if kind == "consistency" else 4
    arguments = call(kind, batch=2, steps=steps)
    expected = torch.tensor(pipe(**arguments, output_type="np").images).permute(0, 3, 1, 2)
    labels = arguments.get("class_labels")
    engine = Engine.from_pipeline(pipe)
    found = engine.sample(2, labels=labels, steps=steps, noise=generator()).images
    assert relative(found.clamp(-1, 1) / 2 + 0.5, expected) <= 1e-4


def test_the_weights_are_the_pipelines_and_it_goes_on_working() -> None:
    pipe = pipeline("text to image")
    before = pipe(**call("text to image"), output_type="latent").images
    engine = Engine.from_pipeline(pipe, decoder=None)
    assert relative(pipe(**call("text to image"), output_type="latent").images, before) <= 1e-5
    first = engine.sample(prompt="a", seeds=0, steps=1).images
    with torch.no_grad():
        pipe.unet.conv_out.bias.add_(1)
    assert not torch.equal(engine.sample(prompt="a", seeds=0, steps=1).images, first)


def test_an_engine_outlives_accelerate_and_restore() -> None:
    pipe = pipeline("text to image")
    arguments: dict[str, Any] = {"prompt": "a", "seeds": 0, "steps": 1}
    before = Engine.from_pipeline(pipe, decoder=None)
    expected = before.sample(**arguments).images
    accelerate(pipe)
    between = Engine.from_pipeline(pipe, decoder=None)
    assert torch.equal(between.sample(**arguments).images, expected)
    restore(pipe)
    for engine in (before, between):
        assert torch.equal(engine.sample(**arguments).images, expected)


def test_another_text_is_no_other_graph() -> None:
    runner = GraphRunner(RecorderCapturer(), BUDGET)
    engine = Engine.from_pipeline(pipeline("xl text to image"), runner=runner)
    for prompt, negative, scale in (("a", None, 5.0), ("a red fox", "dark", 7.0), ("b", "", 2.0), ("c", None, 3.0)):
        engine.sample(prompt=prompt, negative_prompt=negative, guidance_scale=scale, steps=2)
    assert runner.stats()["captures"] == 1


@pytest.mark.parametrize("kind", ["text to image", "xl text to image"])
def test_a_text_is_encoded_once_until_the_encoder_is_another(kind: str) -> None:
    pipe = pipeline(kind)
    counted, encoders = Counted(pipe), 2 if "xl" in kind else 1
    engine = Engine.from_pipeline(pipe, decoder=None)
    first = engine.sample(prompt="a red fox", negative_prompt="dark", steps=1, seeds=0).images
    assert counted.since() == 2 * encoders
    engine.sample(prompt="a red fox", negative_prompt="dark", steps=2)
    engine.sample(4, prompt=["a red fox"] * 4, steps=1, guidance_scale=1.0)
    assert counted.since() == 0
    engine.sample(prompt="dark", steps=1, guidance_scale=1.0)
    assert counted.since() == encoders, "as a prompt it is another than as a negative one"
    with torch.no_grad():
        next(pipe.text_encoder.parameters()).mul_(1.5)
    changed = engine.sample(prompt="a red fox", negative_prompt="dark", steps=1, seeds=0).images
    assert counted.since() == 2 * encoders
    assert not torch.equal(changed, first)


def test_adapters_of_peft_are_seen() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    pipe = pipeline("text to image")
    counted, reader = Counted(pipe), PromptEncoder(pipe)
    lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    layers = lambda: [each for each in pipe.text_encoder.modules() if hasattr(each, "scaling")]  # noqa: E731
    changes: list[Callable[[], object]] = [
        lambda: inject_adapter_in_model(lora, pipe.text_encoder, "one"),
        lambda: [each.scale_layer(0.5) for each in layers()],
        lambda: [each.merge() for each in layers()],
        lambda: [each.unmerge() for each in layers()],
        lambda: [each.enable_adapters(False) for each in layers()],
    ]
    reader("a", False)
    for change in changes:
        change()
        counted.since()
        reader("a", False)
        assert counted.since() == 1
        reader("a", False)
        assert counted.since() == 0


def test_so_many_embeddings_are_kept_and_the_one_used_longest_ago_goes_first() -> None:
    pipe = pipeline("text to image")
    counted, reader = Counted(pipe), PromptEncoder(pipe, kept=2)
    for text in ("a", "b", "a", "c", "a"):
        reader(text, False)
    assert (counted.since(), len(reader)) == (3, 2)
    reader("b", False)
    assert counted.since() == 1
    reader.forget()
    assert len(reader) == 0
    with pytest.raises(ArgumentError, match="kept: got -1"):
        PromptEncoder(pipe, kept=-1)


def test_no_negative_prompt_is_zeros_where_the_pipeline_says_so() -> None:
    pipe = pipeline("xl text to image")
    assert not PromptEncoder(pipe)(None, True)["context"].any()
    assert PromptEncoder(pipe)("", True)["context"].any()
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    assert torch.equal(PromptEncoder(pipe)(None, True)["context"], PromptEncoder(pipe)("", True)["context"])


def test_what_is_cut_off_is_told_by_the_pipeline(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("diffusers")
    logger.propagate, before = True, logger.propagate
    try:
        with caplog.at_level(logging.WARNING, logger="diffusers"):  # whatever other tests have set it to
            PromptEncoder(pipeline("text to image"))("fox " * 100, False)
    finally:
        logger.propagate = before
    assert "truncated because CLIP can only handle sequences up to 77 tokens" in caplog.text


def test_a_start_from_a_picture_and_from_its_latents_is_the_same() -> None:
    pipe = pipeline("text to image")
    engine = Engine.from_pipeline(pipe)
    vae: AutoencoderKL = pipe.vae
    pixels = torch.rand(3, SIZE, SIZE, generator=generator()) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(pixels[None]).latent_dist.mean * vae.config.scaling_factor
    arguments: dict[str, Any] = {"prompt": "a", "steps": 2, "seeds": 0}
    found = engine.sample(2, start=Image(pixels, 0.5), **arguments).images
    assert relative(engine.sample(2, start=Image(latents[0], 0.5), **arguments).images, found) <= 1e-4
    kept = engine.samples(start=Inpaint(pixels, mask()), **arguments)[0]
    assert kept.known is not None
    assert kept.mask is not None
    assert relative(kept.known, latents[0]) <= 1e-4
    assert torch.equal(kept.mask[0], (torch.arange(SIZE // 2) >= SIZE // 4).float().expand(SIZE // 2, -1))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (lambda: Image(torch.zeros(3, 8, 8), 0.5), r"image: got shape \(1, 3, 8, 8\); allowed: \(3, 32, 32\)"),
        (lambda: Image(torch.zeros(2, *LATENTS), 0.5), r"image: got latents \[2, 4, 16, 16\]; allowed: \[4, 16, 16\]"),
        (lambda: Image(torch.full(LATENTS, torch.nan), 0.5), "image: got latents with NaN"),
    ],
    ids=["a picture of another size", "latents of more samples", "latents that are not finite"],
)
def test_a_start_that_does_not_fit_is_told(start: Callable[[], Image], message: str) -> None:
    engine = Engine.from_pipeline(pipeline("text to image"))
    with pytest.raises(ArgumentError, match=message):
        engine.sample(1, prompt="a", start=start())


def test_a_name_that_is_known_brings_its_preset() -> None:
    pipe = pipeline("text to image")
    pipe.register_to_config(_name_or_path="stabilityai/sd-turbo")
    pipe.scheduler = SCHEDULERS["euler"](timestep_spacing="trailing")
    engine = Engine.from_pipeline(pipe)
    assert engine.model.trained is not None
    assert engine.plan(1).describe().startswith("euler: 1 model call, eps prediction, trailing spacing")
    assert engine.plan().column("w").tolist() == [1.0]
    pipe.scheduler = SCHEDULERS["ddim"]()
    with pytest.warns(
        UntrainedPlanWarning, match=r"looks like sd-turbo by the pipeline's name.*from_pipeline\(pipe, def"
    ):
        Engine.from_pipeline(pipe)


def test_what_defaults_do_not_say_is_the_pipelines() -> None:
    pipe = pipeline("xl text to image")
    plan = Engine.from_pipeline(pipe, defaults={"steps": 3}).plan()
    assert (plan.sampler, len(plan), plan.column("w")[0]) == ("euler", 3, 5.0)
    plan = Engine.from_pipeline(pipe, defaults={"sampler": "ddim", "steps": 2, "guidance_scale": 2.0}).plan()
    assert (plan.sampler, len(plan), plan.column("w")[0]) == ("ddim", 2, 2.0)
    plan = Engine.from_pipeline(pipe, defaults="sd-turbo").plan()
    assert (plan.sampler, len(plan), plan.column("w")[0]) == ("euler", 1, 1.0)
    pipe.register_to_config(_name_or_path="sdxl-turbo")
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    plan = Engine.from_pipeline(pipe, defaults={"steps": 2}).plan()
    assert (plan.sampler, len(plan), plan.column("w")[0]) == ("euler_ancestral", 2, 1.0)
    with pytest.raises(ArgumentError, match=r"defaults: got euler_ancestral with 9 steps; allowed: .* 1 to 4 st"):
        Engine.from_pipeline(pipe, defaults={"steps": 9})


def test_a_scheduler_that_is_no_sampler_of_ours_says_what_to_do() -> None:
    pipe = pipeline("text to image")
    pipe.scheduler = SASolverScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    with pytest.raises(ModelError) as error:
        Engine.from_pipeline(pipe)
    assert re.search(r"SASolverScheduler.*from_pipeline\(pipe, defaults=.*Plan.from_diffusers", str(error.value))
    assert "from_pretrained" not in str(error.value)
    engine = Engine.from_pipeline(pipe, defaults={"sampler": "ddim", "steps": 2}, decoder=None)
    plan = Plan.from_diffusers(SCHEDULERS["ddim"](), steps=2)
    assert engine.sample(prompt="a", plan=plan).images.shape == (1, *LATENTS)


def test_a_pipeline_without_text_encoders_takes_embeddings() -> None:
    pipe = pipeline("xl text to image")
    reader = PromptEncoder(pipeline("xl text to image"))
    expected = Engine.from_pipeline(pipe, decoder=None).sample(prompt="a", seeds=0, steps=1).images
    pipe.text_encoder = pipe.text_encoder_2 = pipe.tokenizer = pipe.tokenizer_2 = None
    engine = Engine.from_pipeline(pipe, decoder=None)
    embeddings = {"prompt": reader("a", False), "negative_prompt": reader(None, True)}
    assert relative(engine.sample(**embeddings, seeds=0, steps=1).images, expected) <= 1e-5  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="prompt: got 'a'; allowed: an embedding: the pipeline has no text encoder"):
        engine.sample(prompt="a")


def without(part: str) -> Any:
    pipe = pipeline("text to image")
    setattr(pipe, part, None)
    return pipe


def refiner() -> Any:
    """Its pooled text is wider than six numbers beside it leave room for."""
    pipe = pipeline("xl text to image")
    pipe.text_encoder_2.config.projection_dim += 8
    return pipe


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "another pipeline": (
        lambda: pipeline("instructions"),
        {},
        "pipe: got a StableDiffusionInstructPix2PixPipeline; allowed: Stable",
    ),
    "no pipeline": (lambda: torch.nn.Linear(1, 1), {}, "pipe: got a Linear; allowed: StableDiffusionPipeline"),
    "a refiner": (refiner, {}, "pipe: got a pooled text of 40 numbers; allowed: .* takes beside 6 numbers, 32"),
    "no autoencoder": (
        lambda: without("vae"),
        {},
        "pipe: got a StableDiffusionPipeline whose vae is None; allowed: one",
    ),
    "no scheduler": (lambda: without("scheduler"), {}, "pipe: got a StableDiffusionPipeline whose scheduler is None"),
    "an odd size": (lambda: pipeline("text to image"), {"height": 31}, "height: got 31; allowed: a multiple of 2"),
    "no size": (lambda: pipeline("text to image"), {"width": 0}, "width: got 0; allowed: an integer from 2"),
    "a size of pixels": (lambda: pipeline("ddim"), {"width": 8}, "width: got 8; allowed: None: a DDIMPipeline draws"),
    "a misspelt option": (
        lambda: pipeline("ddim"),
        {"default": 8},
        "got 'default'; .*you mean 'defaults'",
    ),
}


@pytest.mark.parametrize(("make", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_an_engine_is_told(make: Callable[[], Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Engine.from_pipeline(make(), **options)


def test_extra_input_channels_are_refused_by_their_number() -> None:
    pipe = pipeline("text to image")
    pipe.unet = pipeline("inpainting, 9 channels").unet
    with pytest.raises(ArgumentError, match=r"unet: got a U-Net of 9 input channels beside latents of 4; allowed: 4"):
        Engine.from_pipeline(pipe)

"""Calls of an accelerated U-Net: what it takes, what it names when it does not, and what it keeps between calls."""

import re
from functools import cache
from typing import Any

import pytest
import torch

import fewstep
from fewstep import ArgumentError
from fewstep.pipelines.steady import Conditioning
from support.accelerated import Products, off
from support.conditional_configs import REDUCED, condition_inputs, random_unet
from support.diffusers_case import SMALL, inputs, random_model
from support.pipelines_case import call, conditional_unet, pipeline

WIDTH = 40  # of the prompt embeddings: no other product has a side of this length


def residuals(unet: Any, batch: int = 2) -> dict[str, Any]:
    """As a ControlNet gives them."""
    kept: list[torch.Size] = []
    hooks = [unet.conv_in, *(part for block in unet.down_blocks for part in [*block.resnets])]
    hooks += [part for block in unet.down_blocks for part in block.downsamplers or []]
    handles = [part.register_forward_hook(lambda *parts: kept.append(parts[2].shape)) for part in hooks]
    with torch.no_grad():
        unet(**condition_inputs(dict(unet.config), batch))
    for handle in handles:
        handle.remove()
    generator = torch.Generator().manual_seed(5)
    down = [torch.randn(shape, generator=generator) for shape in kept]
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": torch.randn_like(down[-1])}


@pytest.mark.slow
@torch.no_grad()
def test_every_form_of_a_call_gives_what_diffusers_gives() -> None:
    unet = random_unet(REDUCED["sd1"])
    given = condition_inputs(REDUCED["sd1"])
    view = fewstep.accelerate(unet)
    forms: dict[str, dict[str, Any]] = {
        "a whole number": {"timestep": 500},
        "a float": {"timestep": 500.5},
        "a tensor without axes": {"timestep": torch.tensor(500)},
        "a tensor of one": {"timestep": torch.tensor([500.25])},
        "empty settings": {"cross_attention_kwargs": {}, "added_cond_kwargs": {}},
        "what it has no layers for": {"added_cond_kwargs": {"text_embeds": torch.ones(2, 3)}},
        "no image embeddings": {"added_cond_kwargs": {"image_embeds": None}},
        "odd sides": {"sample": torch.ones(2, 4, 9, 14)},
        "one token": {"encoder_hidden_states": torch.ones(2, 1, 32)},
        "residuals": residuals(unet),
    }
    for form, change in forms.items():
        arguments = given | change
        assert off(view(**arguments).sample, unet(**arguments).sample) <= 1e-5, form
    (sample,) = view(given["sample"], given["timestep"], given["encoder_hidden_states"], return_dict=False)
    assert sample.is_contiguous()
    assert torch.equal(sample, view(**given)[0])


@torch.no_grad()
def test_a_unet_of_pixels_reads_times_as_diffusers_does() -> None:
    unet = random_model(SMALL | {"num_class_embeds": 5})
    given = inputs(unet)
    view = fewstep.accelerate(unet)
    for timestep in (7, 7.9, torch.tensor(7), torch.tensor([7.5]), given["timestep"]):
        arguments = given | {"timestep": timestep}
        assert off(view(**arguments).sample, unet(**arguments).sample) <= 1e-5
    assert torch.equal(view(*given.values(), False)[0], view(**given).sample)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a mask": ("sd1", {"attention_mask": torch.ones(2, 77)}, "attention_mask: got a tensor"),
    "a mask of the prompt": ("sd1", {"encoder_attention_mask": torch.ones(2, 77)}, "encoder_attention_mask: got"),
    "a LoRA scale": ("sd1", {"cross_attention_kwargs": {"scale": 0.5}}, "cross_attention_kwargs: got 'scale'"),
    "an adapter": (
        "sd1",
        {"down_intrablock_additional_residuals": [torch.ones(2, 32, 16, 16)]},
        "down_intrablock_additional_residuals: got a tensor; allowed: None under fewstep.accelerate: T2I-Adapters",
    ),
    "half of a ControlNet": (
        "sd1",
        {"down_block_additional_residuals": [torch.ones(2, 32, 16, 16)]},
        "mid_block_additional_residual: got None",
    ),
    "another width": (
        "sd1",
        {"encoder_hidden_states": torch.ones(2, 77, 33)},
        "encoder_hidden_states: got [2, 77, 33]; allowed: [2, L, 32]: this U-Net's prompt embeddings are 32 wide",
    ),
    "another batch": ("sd1", {"encoder_hidden_states": torch.ones(3, 77, 32)}, "encoder_hidden_states: got [3, 77,"),
    "no prompt": ("sd1", {"encoder_hidden_states": None}, "encoder_hidden_states: got None; allowed: a tensor [2"),
    "image embeddings beside": ("sd1", {"encoder_hidden_states": (1, 2)}, "encoder_hidden_states: got prompt emb"),
    "an IP-Adapter's": ("sd1", {"added_cond_kwargs": {"image_embeds": [1]}}, "added_cond_kwargs: got 'image_embeds'"),
    "other channels": ("inpainting", {"sample": torch.ones(2, 4, 8, 8)}, "sample: got [2, 4, 8, 8]; allowed: [B, 9"),
    "a flat sample": ("sd1", {"sample": torch.ones(4, 8, 8)}, "sample: got [4, 8, 8]"),
    "no pooled text": ("sdxl", {"added_cond_kwargs": None}, "added_cond_kwargs: got no text_embeds; allowed: text_em"),
    "pooled text of another width": (
        "sdxl",
        {"added_cond_kwargs": {"text_embeds": torch.ones(2, 7), "time_ids": torch.ones(2, 6)}},
        "pooled: got [2, 7] beside sizes [2, 6]",
    ),
    "no class": ("upscaler", {"class_labels": None}, "class_labels: got None"),
    "a guidance embedding": ("sd1", {"timestep_cond": torch.ones(2, 32)}, "timestep_cond: got a tensor; allowed: None"),
    "three times": ("sd1", {"timestep": torch.ones(3)}, "timestep: got [3]; allowed: one for all, or [2]"),
}


@cache
def accelerated(kind: str) -> Any:
    """One for all calls that it refuses."""
    return fewstep.accelerate(random_unet(REDUCED[kind]))


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_network_does_not_take_is_named(case: str) -> None:
    kind, change, message = REFUSED[case]
    view = accelerated(kind)
    with pytest.raises(ArgumentError, match=re.escape(message)), torch.no_grad():
        view(**(condition_inputs(REDUCED[kind]) | change))


def test_an_unknown_argument_is_a_type_error_as_in_diffusers() -> None:
    view = fewstep.accelerate(random_unet(REDUCED["sd1"]))
    with pytest.raises(TypeError, match="nonsense"):
        view(**condition_inputs(REDUCED["sd1"]), nonsense=1)


@pytest.mark.slow
def test_no_step_but_the_first_multiplies_the_prompt() -> None:
    counts: list[int] = []

    def run(pipe: Any) -> list[int]:
        counts.clear()
        embeddings = {name: torch.ones(1, 7, WIDTH) for name in ("prompt_embeds", "negative_prompt_embeds")}
        with Products(WIDTH) as products:

            def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
                counts.append(products.count)
                return tensors

            arguments = call("text to image") | {"prompt": None, "negative_prompt": None} | embeddings
            pipe(**arguments, output_type="latent", callback_on_step_end=callback)
        return [after - before for before, after in zip([0, *counts], counts, strict=False)]

    pipe = pipeline("text to image")
    pipe.unet = conditional_unet("sd1", cross_attention_dim=WIDTH)
    blocks = len([name for name, _ in pipe.unet.named_modules() if name.endswith("attn2")])
    assert run(pipe) == [2 * blocks] * 4
    fewstep.accelerate(pipe)
    assert run(pipe) == [blocks, 0, 0, 0]
    assert run(pipe) == [blocks, 0, 0, 0]  # another prompt tensor: made anew


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sd1", "sdxl", "lcm", "upscaler"])
def test_a_conditioning_that_is_written_into_between_calls_is_seen(kind: str) -> None:
    unet = random_unet(REDUCED[kind])
    view = fewstep.accelerate(unet)
    given = condition_inputs(REDUCED[kind])
    beside = given.get("added_cond_kwargs", {})
    conditions = {"text": given["encoder_hidden_states"]} | beside
    conditions |= {name: given[name] for name in ("timestep_cond", "class_labels") if name in given}
    last = view(**given).sample
    for name, tensor in conditions.items():
        tensor.add_(1)
        now = view(**given).sample
        assert off(now, last) > 1e-6, name
        assert off(now, unet(**given).sample) <= 1e-5, name
        tensor.data = tensor.detach() - 1  # the same tensor over other memory, which torch does not count as written
        last = view(**given).sample
        assert off(last, unet(**given).sample) <= 1e-5, name
    given["encoder_hidden_states"] = given["encoder_hidden_states"].clone()  # another tensor with the same values
    assert torch.equal(view(**given).sample, last)


@torch.no_grad()
def test_what_is_kept_holds_no_prompt_and_goes_with_the_weights() -> None:
    unet = random_unet(REDUCED["sd1"])
    view = fewstep.accelerate(unet)
    given = condition_inputs(REDUCED["sd1"])
    kept = view.fewstep_network.kept

    def products() -> int:
        with Products(32) as counter:
            kept.of(view.fewstep_network.current(), conditioning, view.fewstep_network.steady_weights)
        return counter.count

    conditioning = Conditioning(given["encoder_hidden_states"], None, None, None, None)
    made = products()
    assert made > 0
    assert products() == 0
    view.fewstep_network.current().get_submodule("down.0.stages.0.transformer.blocks.0.cross.kv").weight.mul_(2)
    assert products() == made  # written by fewstep, as a LoRA is
    unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_v.weight.mul_(0.5)
    assert products() == made  # and by others
    assert products() == 0
    kept.drop()
    assert products() == made


def test_tensors_of_inference_mode_and_of_a_graph_are_not_kept() -> None:
    unet = random_unet(REDUCED["sd1"])
    view = fewstep.accelerate(unet)
    with torch.inference_mode():
        given = condition_inputs(REDUCED["sd1"])
        first = view(**given).sample
        given["encoder_hidden_states"].mul_(2)
        assert off(view(**given).sample, first) > 1e-4
        assert off(view(**given).sample, unet(**given).sample) <= 1e-5
    given = condition_inputs(REDUCED["sd1"])
    given["encoder_hidden_states"].requires_grad_()
    gradients = []
    for module in (unet, view, view):
        (gradient,) = torch.autograd.grad(module(**given).sample.square().sum(), given["encoder_hidden_states"])
        gradients.append(gradient)
    assert off(gradients[1], gradients[0]) <= 1e-5
    assert torch.equal(gradients[1], gradients[2])


def test_gradients_of_the_image_and_autocast_are_those_of_diffusers() -> None:
    unet = random_unet(REDUCED["sdxl"])
    view = fewstep.accelerate(unet)
    given = condition_inputs(REDUCED["sdxl"])
    given["sample"].requires_grad_()
    theirs, ours = (
        torch.autograd.grad(module(**given).sample.square().sum(), given["sample"])[0] for module in (unet, view)
    )
    assert off(ours, theirs) <= 1e-5
    with torch.no_grad():
        exact = unet(**given).sample
        for module in (view, unet):  # what the view keeps of the prompt in one dtype is not taken in another
            module(**given)
        with torch.autocast("cpu", torch.bfloat16):
            theirs, ours = unet(**given).sample, view(**given).sample
        assert ours.dtype == theirs.dtype == torch.bfloat16
        assert off(ours, exact) <= 2 * off(theirs, exact)
        assert off(view(**given).sample, exact) <= 1e-5

"""The text-conditioned U-Net beside diffusers' UNet2DConditionModel, on the same random weights."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fewstep.errors import ArgumentError
from fewstep.models.net.conditional import MAX_TABLE, ConditionalUNet
from support.conditional_case import as_ours, call_ours, call_theirs, error, ours_named, prepared
from support.conditional_configs import REDUCED, condition_inputs, random_unet

HALVED = ("sample", "encoder_hidden_states", "timestep_cond")  # what a pipeline hands over in the network's dtype
CASES = pytest.mark.parametrize("name", REDUCED)


def pair(name: str) -> tuple[UNet2DConditionModel, ConditionalUNet]:
    theirs = random_unet(REDUCED[name])
    return theirs, as_ours(theirs)


@CASES
def test_one_call_is_diffusers(name: str) -> None:
    theirs, ours = pair(name)
    for batch, size in ((1, 8), (2, 16), (3, (24, 8))):
        arguments = condition_inputs(REDUCED[name], batch, 8)
        height, width = (size, size) if isinstance(size, int) else size
        arguments["sample"] = torch.randn(batch, theirs.config.in_channels, height, width)
        difference = error(call_ours(ours, arguments), call_theirs(theirs, arguments))
        assert difference <= 1e-5, f"{name} at {height}x{width}: {difference:.1e}"


def test_sides_that_are_halved_to_odd_ones_are_diffusers() -> None:
    for name in ("sd2", "unusual"):
        theirs, ours = pair(name)
        arguments = condition_inputs(REDUCED[name])
        for size in ((9, 13), (10, 16), (7, 5)):
            if name == "unusual" and min(size) % 2:
                continue  # padded at the right and the bottom alone, diffusers cannot halve these either
            arguments["sample"] = torch.randn(2, theirs.config.in_channels, *size)
            assert error(call_ours(ours, arguments), call_theirs(theirs, arguments)) <= 1e-5, size


@CASES
def test_what_is_prepared_once_gives_what_the_condition_gives(name: str) -> None:
    theirs, ours = pair(name)
    arguments = condition_inputs(REDUCED[name])
    times = torch.tensor([999.0, 500.0, 1.0, 1.0])
    lanes = prepared(ours, arguments, times)
    assert set(lanes) >= {f"kv_{i}" for i in range(ours.cross_attentions)} | {"modulations", "times"}
    for t in (999.0, 1.0):
        arguments["timestep"] = torch.tensor([t, 500.0])
        with torch.no_grad():
            found = ours(arguments["sample"], arguments["timestep"], **lanes)
        assert error(found, call_theirs(theirs, arguments)) <= 1e-5


def test_a_long_plan_is_modulated_in_each_step() -> None:
    theirs, ours = pair("sdxl")
    arguments = condition_inputs(REDUCED["sdxl"])
    lanes = prepared(ours, arguments, torch.linspace(999, 1, MAX_TABLE + 1))
    assert set(lanes) >= {"pooled", "sizes"}
    assert "modulations" not in lanes
    with torch.no_grad():
        found = ours(arguments["sample"], arguments["timestep"], **lanes)
    assert error(found, call_theirs(theirs, arguments)) <= 1e-5


def test_what_a_controlnet_adds_is_added_where_diffusers_adds_it() -> None:
    for name in ("sd1", "pruned"):
        theirs, ours = pair(name)
        arguments = condition_inputs(REDUCED[name])
        down, mid = residuals(theirs, arguments)
        added = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        plain, found = call_theirs(theirs, arguments), call_theirs(theirs, {**arguments, **added})
        with torch.no_grad():
            own = ours(**ours_named(arguments), down_residuals=down, mid_residual=mid)
        assert error(own, found) <= 1e-5
        assert error(plain, found) > 1e-2, "they count"


def residuals(theirs: UNet2DConditionModel, arguments: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
    """A ControlNet's, of the shapes that this U-Net keeps, by a hook on its way up."""
    kept: list[Tensor] = []
    handles = [
        block.register_forward_pre_hook(
            lambda _, __, given: kept.extend(given["res_hidden_states_tuple"]), with_kwargs=True
        )
        for block in theirs.up_blocks
    ]
    entered: list[Tensor] = []
    first = theirs.up_blocks[0].register_forward_pre_hook(
        lambda _, __, given: entered.append(given["hidden_states"]), with_kwargs=True
    )
    call_theirs(theirs, arguments)
    for handle in (*handles, first):
        handle.remove()
    levels = [len(block.resnets) for block in theirs.up_blocks]
    ordered: list[Tensor] = []
    for count in levels:
        ordered = kept[:count] + ordered
        kept = kept[count:]
    return [0.3 * torch.randn_like(each) for each in ordered], 0.3 * torch.randn_like(entered[0])


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "lcm"])
def test_bfloat16_is_within_twice_the_error_of_diffusers(name: str) -> None:
    theirs, ours = pair(name)
    arguments = condition_inputs(REDUCED[name])
    exact = call_theirs(theirs, arguments)
    half = {key: value.bfloat16() if key in HALVED else value for key, value in arguments.items()}
    by_diffusers = error(call_theirs(theirs.bfloat16(), half).float(), exact)
    by_fewstep = error(call_ours(ours.bfloat16(), half).float(), exact)
    print(f"{name}: bfloat16 off by {by_fewstep:.2e}, diffusers by {by_diffusers:.2e}")
    assert by_fewstep <= 2 * by_diffusers


def test_the_guidance_scale_is_embedded_as_the_pipeline_of_lcm_does() -> None:
    from diffusers import LatentConsistencyModelPipeline

    theirs, ours = pair("lcm")
    arguments = condition_inputs(REDUCED["lcm"])
    scales = torch.tensor([8.5, 1.5])
    width = REDUCED["lcm"]["time_cond_proj_dim"]
    pipeline: Any = LatentConsistencyModelPipeline
    arguments["timestep_cond"] = pipeline.get_guidance_scale_embedding(None, scales - 1, width)
    own = ours_named(arguments) | {"guidance": scales}
    with torch.no_grad():
        assert error(ours(**own), call_theirs(theirs, arguments)) <= 1e-5
    del arguments["timestep_cond"], own["guidance"]
    with torch.no_grad():
        assert error(ours(**own), call_theirs(theirs, arguments)) <= 1e-5, "the scale may be left out, as there"


def test_concatenation_is_further_channels() -> None:
    _, ours = pair("inpainting")
    arguments = ours_named(condition_inputs(REDUCED["inpainting"]))
    x = arguments.pop("x")
    with torch.no_grad():
        whole = ours(x, **arguments)
        apart = ours(x[:, :4], concat=x[:, 4:], **arguments)
        lanes = prepared(ours, arguments | {"concat": x[:, 4:]}, torch.tensor([999.0, 1.0]))
        held = ours(x[:, :4], arguments["t"], **lanes)
    assert torch.equal(whole, apart)
    assert error(held, whole) <= 1e-5


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no context": ({"context": None}, r"context: got None; allowed: \[B, L, 64\]"),
    "a context of another width": ({"context": torch.zeros(2, 77, 32)}, r"\[2, 77, 32\]; allowed: \[B, L, 64\]"),
    "a context for one": ({"context": torch.zeros(1, 77, 64)}, "context: got 1 of them; allowed: 2"),
    "no pooled text": ({"pooled": None}, "pooled: got None; allowed: a tensor"),
    "sizes that do not fit": ({"sizes": torch.zeros(2, 5)}, r"pooled: got \[2, 32\] beside sizes \[2, 5\]"),
    "labels of a model without": ({"labels": torch.zeros(2)}, "labels: got a tensor; allowed: None"),
    "guidance of a model without": ({"guidance": torch.ones(2)}, "guidance: got a tensor; allowed: None"),
    "a name that it does not take": (
        {"contxt": torch.zeros(2)},
        "got 'contxt'; allowed: what .* takes: x, t, concat, context",
    ),
    "one half of what a ControlNet gives": ({"mid_residual": torch.zeros(2)}, "down_residuals: got None"),
    "too few residuals": ({"down_residuals": [], "mid_residual": torch.zeros(2)}, "0 tensors.*allowed: 6"),
    "channels of another size": (
        {"x": torch.zeros(2, 2, 8, 8), "concat": torch.zeros(2, 2, 8, 4)},
        r"concat: got \[2, 2, 8, 4\]; allowed: .* beside x \[2, 2, 8, 8\]",
    ),
    "sizes for three": ({"sizes": torch.zeros(3, 6)}, r"sizes: got \[3, 6\]; allowed: \[2, ...\], one for each image"),
    "a context of no tokens": ({"context": torch.zeros(2, 0, 64)}, r"context: got \[2, 0, 64\]; allowed: \[B, L, 64\]"),
    "one row of times": (
        {"modulations": torch.zeros(1, 3, 5), "times": torch.zeros(1, 3)},
        "got 1 of them; allowed: 2, one for each image",
    ),
    "too many channels": ({"x": torch.zeros(2, 5, 8, 8)}, r"x: got \[2, 5, 8, 8\]; allowed: \[B, 4, H, W\]"),
    "one time for two": ({"t": torch.zeros(1)}, r"t: got \[1\]; allowed: \[2\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_it_does_not_take_is_named(name: str) -> None:
    _, ours = pair("sdxl")
    changed, message = WRONG[name]
    with torch.no_grad(), pytest.raises(ArgumentError, match=message):
        ours(**{**ours_named(condition_inputs(REDUCED["sdxl"])), **changed})


def test_what_it_cannot_prepare_is_named() -> None:
    _, ours = pair("sd1")
    with pytest.raises(ArgumentError, match=r"got 'contxt'; .* whole run: context, concat, labels, pooled"):
        ours.prepare_condition({"contxt": torch.zeros(77, 32)}, torch.ones(2))
    with pytest.raises(ArgumentError, match="context: got None"):
        ours.prepare_condition({}, torch.ones(2))

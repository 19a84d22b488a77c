"""The weights of an accelerated U-Net: one memory for two modules, through moves, loads and copies, and back."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

import fewstep
from support.accelerated import off
from support.conditional_configs import REDUCED, condition_inputs, random_unet
from support.diffusers_case import SMALL, inputs, random_model


def answer(unet: Any, kind: str = "sd1") -> Tensor:
    """What it predicts, of its own dtype."""
    with torch.no_grad():
        arguments = inputs(unet) if kind == "pixels" else condition_inputs(REDUCED[kind])
        arguments["sample"] = arguments["sample"].to(unet.dtype)
        if "encoder_hidden_states" in arguments:
            arguments["encoder_hidden_states"] = arguments["encoder_hidden_states"].to(unet.dtype)
        return unet(**arguments).sample


def made(kind: str) -> Any:
    return random_model(SMALL) if kind == "pixels" else random_unet(REDUCED[kind])


def memory(*modules: nn.Module) -> dict[int, int]:
    """Bytes of every storage by where it lies."""
    storages = [weight.untyped_storage() for module in modules for weight in module.parameters()]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def doubled(unet: nn.Module) -> dict[str, Tensor]:
    return {name: 1.05 * weight for name, weight in unet.state_dict().items()}


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "pixels"])
def test_no_weight_is_there_twice_and_restored_ones_lie_as_before(kind: str) -> None:
    unet = made(kind)
    values = {name: weight.clone() for name, weight in unet.state_dict().items()}
    parameters = dict(unet.named_parameters())
    strides = {name: weight.stride() for name, weight in parameters.items()}
    size = sum(weight.nbytes for weight in unet.parameters())
    view = fewstep.accelerate(unet)
    ours = view.fewstep_network.current()
    assert sum(memory(ours, unet).values()) == size
    assert {id(weight) for weight in view.parameters()} == {id(weight) for weight in parameters.values()}
    assert all(torch.equal(weight, values[name]) for name, weight in view.state_dict().items())
    assert not any(weight.requires_grad for weight in ours.parameters())
    assert all(weight.requires_grad for name, weight in unet.named_parameters())

    assert fewstep.restore(view) is unet
    assert all(parameter is parameters[name] for name, parameter in unet.named_parameters())
    assert all(torch.equal(weight, values[name]) for name, weight in unet.state_dict().items())
    assert {name: weight.stride() for name, weight in unet.named_parameters()} == strides
    assert len(memory(unet)) == len(parameters)


CHANGES: dict[str, Callable[[Any, Any], object]] = {
    "loaded into the view": lambda unet, view: view.load_state_dict(doubled(unet)),
    "loaded into the original": lambda unet, view: unet.load_state_dict(doubled(unet)),
    "assigned to the view": lambda unet, view: view.load_state_dict(doubled(unet), assign=True),
    "assigned to the original": lambda unet, view: unet.load_state_dict(doubled(unet), assign=True),
    "written in place": lambda unet, view: [weight.detach().mul_(1.05) for weight in unet.parameters()],
    "a new parameter": lambda unet, view: setattr(
        unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k,
        "weight",
        nn.Parameter(torch.ones_like(unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k.weight)),
    ),
    "cast in the view": lambda unet, view: view.to(torch.float64),
    "cast in the original": lambda unet, view: unet.to(torch.float64),
    "cast forth and back": lambda unet, view: view.half().float(),
    "laid out otherwise": lambda unet, view: unet.to(memory_format=torch.channels_last),
    "through .data and dropped": lambda unet, view: (
        [weight.data.mul_(1.05) for weight in unet.parameters()],
        view.fewstep_network.kept.drop(),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_change_are_seen(change: str) -> None:
    unet = made("sd1")
    view = fewstep.accelerate(unet)
    before = answer(view)
    CHANGES[change](unet, view)
    assert off(answer(view), answer(unet)) <= 1e-5
    fresh = UNet2DConditionModel(**REDUCED["sd1"]).to(unet.dtype).eval()
    fresh.load_state_dict(unet.state_dict())
    assert off(answer(view), answer(fresh)) <= 1e-5
    if "cast in" not in change and "laid out" not in change and "forth" not in change:
        assert off(answer(view), before) > 1e-4


def test_two_views_of_one_unet_and_one_restored_share_what_is_left() -> None:
    unet = made("sd1")
    untouched = answer(unet)
    one, two = fewstep.accelerate(unet), fewstep.accelerate(unet)
    size = sum(weight.nbytes for weight in unet.parameters())
    assert sum(memory(one.fewstep_network.current(), two.fewstep_network.current(), unet).values()) == size
    assert fewstep.restore(one) is unet
    assert off(answer(two), untouched) <= 1e-5
    assert off(answer(one), untouched) <= 1e-5  # a view that somebody still holds shares them anew
    assert sum(memory(one.fewstep_network.current(), two.fewstep_network.current(), unet).values()) == size


@pytest.mark.parametrize("kind", ["sd1", "pixels"])
def test_a_copy_and_a_pickle_are_modules_of_diffusers(kind: str) -> None:
    view = fewstep.accelerate(made(kind))
    stream = io.BytesIO()
    torch.save(view, stream)
    stream.seek(0)
    copies = [copy.deepcopy(view), copy.copy(view), torch.load(stream, weights_only=False)]
    for each in copies:
        assert type(each) is (UNet2DModel if kind == "pixels" else UNet2DConditionModel)
        assert off(answer(each, kind), answer(view, kind)) <= 1e-5
    before = answer(view, kind)
    for weight in copies[0].parameters():
        weight.data.zero_()
    assert torch.equal(answer(view, kind), before)


class Wrapper(nn.Module):
    """An accelerated U-Net as a part of a network of one's own."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unet(x, t, torch.ones(len(x), 7, 32)).sample


def test_an_engine_runs_a_network_that_has_an_accelerated_unet() -> None:
    unet = made("sd1")
    settings = {"schedule": fewstep.schedules.linear(), "shape": (4, 16, 16)}
    found = []
    for each in (unet, fewstep.accelerate(unet)):
        engine = fewstep.Engine(fewstep.Model(Wrapper(each), **settings))
        found.append(engine.sample(1, steps=2, sampler="ddim", seeds=0).images)
    assert off(found[1], found[0]) <= 1e-4


def test_what_is_set_on_the_view_is_set_on_the_unet() -> None:
    unet = made("sd1")
    view = fewstep.accelerate(unet)
    assert isinstance(view, UNet2DConditionModel)
    assert (type(view).__name__, type(view).__module__) == (type(unet).__name__, type(unet).__module__)
    assert view.config is unet.config
    view.train()
    view.note = "own"
    assert (unet.training, unet.mid_block.training, unet.note) == (True, True, "own")
    assert ["accelerated by fewstep" in repr(each) for each in (view, unet)] == [True, False]
    assert list(view.state_dict()) == list(unet.state_dict())

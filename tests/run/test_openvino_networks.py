"""OpenVINO executes every kind of network that an engine calls, in one conversion for all batches."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep.pipelines.controlled import ControlledUNet
from fewstep.run.backends.call import Call, prediction_of
from fewstep.run.backends.openvino import OpenVino
from fewstep.run.backends.parity import distance
from support import diffusers_case, unet_case
from support.conditional_case import as_ours, ours_named, prepared
from support.conditional_configs import REDUCED, condition_inputs, random_unet
from support.pipelines_case import conditional_unet, controlnet

pytest.importorskip("openvino")

Made = tuple[nn.Module, Tensor, Tensor, dict[str, Tensor]]  # a network, x, t, and what it is called with besides


def points() -> Made:
    """A network of points, [B, 2], that answers a tuple."""
    torch.manual_seed(0)

    class Points(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))

        def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return self.layers(torch.cat([x, t[:, None] / 1000], 1)), t

    return Points(), torch.randn(3, 2), torch.tensor([1.0, 500.0, 999.0]), {}


def itself() -> Made:
    """One that answers with a view of its input, and needs no time."""

    class Itself(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x[:]

    return Itself(), torch.randn(3, 2, 4, 4), torch.tensor([1.0, 500.0, 999.0]), {}


def of_unets(name: str) -> Made:
    config = unet_case.CONFIGS[name]
    given = unet_case.arguments(config)
    return unet_case.random_unet(config), given.pop("x"), given.pop("t"), given


def of_text(name: str, prepares: bool, ours: bool = True) -> Made:
    """A U-Net of texts: its condition prepared or not, or diffusers' own."""
    theirs = random_unet(REDUCED[name])
    given = condition_inputs(REDUCED[name], tokens=9)
    named = ours_named(given)
    x, t = named.pop("x"), named.pop("t")
    if not ours:
        return theirs, x, t, {"encoder_hidden_states": named["context"]}
    unet = as_ours(theirs)
    return unet, x, t, prepared(unet, given, torch.tensor([999.0, 997.0, 500.0, 1.0])) if prepares else named


def controlled() -> Made:
    theirs = conditional_unet("sd1")
    net = ControlledUNet.of(as_ours(theirs), controlnet(theirs))
    named = ours_named(condition_inputs(REDUCED["sd1"], tokens=9))
    x, t, context = named.pop("x"), named.pop("t"), named["context"]
    told = {"control": torch.rand(2, 3, 32, 32), "control_scale": torch.tensor([0.7, 0.3])}
    with torch.no_grad():
        rows = [{"context": context[lane], **{name: each[lane] for name, each in told.items()}} for lane in range(2)]
        lanes = [net.prepare_condition(each, torch.tensor([999.0, 1.0])) for each in rows]
    return net, x, t, {name: torch.stack([lane[name] for lane in lanes]) for name in lanes[0]}


def of_diffusers() -> Made:
    """A UNet2DModel that learns its variance, at whole times."""
    levels: dict[str, Any] = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
    levels |= {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    net = diffusers_case.random_model({"sample_size": 8, "in_channels": 2, "out_channels": 4, **levels})
    return net, torch.randn(2, 2, 8, 8), torch.tensor([999, 5]), {}


KINDS: dict[str, Callable[[], Made]] = {
    "points": points,
    "itself": itself,
    "no labels": lambda: of_unets("no-labels"),
    "flow map": lambda: of_unets("flow-map"),
    "prepared": lambda: of_text("sd1", prepares=True),
    "fourier": lambda: of_unets("ncsn++"),
    "text": lambda: of_text("sdxl", prepares=False),
    "learned variance": lambda: of_text("unusual", prepares=True),
    "text of diffusers": lambda: of_text("sd1", prepares=False, ours=False),
    "controlled": controlled,
    "diffusers": of_diffusers,
}
QUICK = ("points", "prepared")


@pytest.mark.parametrize(
    "kind", [pytest.param(each, marks=pytest.mark.slow if each in QUICK else pytest.mark.long) for each in KINDS]
)
def test_answers_as_torch_does_and_is_converted_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, t, others = KINDS[kind]()
    net.eval()
    backend = OpenVino(torch.float32, threads=1)
    converted: list[Call] = []
    convert = backend.convert
    monkeypatch.setattr(
        backend, "convert", lambda net, call, given: (converted.append(call), convert(net, call, given))[1]
    )
    for lanes in (len(x), 1):
        given = [each[-lanes:].clone() for each in (x, t, *others.values())]
        given[0] = given[0].contiguous(memory_format=torch.channels_last) if x.ndim == 4 else given[0]
        program = backend.make(net, Call.of(given, tuple(others)), given)
        given[0].mul_(0.5)
        given[1].copy_(given[1].flip(0))
        with torch.no_grad():
            right = prediction_of(net(*given[:2], **dict(zip(others, given[2:], strict=True))))
        answer = program(given)
        error = distance(answer, right, given[0])
        assert error < 1e-5
        assert answer.dtype == right.dtype
    assert len(converted) == 1

"""A step of a text-conditioned U-Net: its launches beside diffusers', and the products that it does without."""

import functools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fewstep import Engine, Model, schedules
from fewstep.cost import Cost
from fewstep.cost.loops import count_diffusers, count_engine
from fewstep.cost.subjects import sd15
from fewstep.diffusion.samplers import make_plan
from fewstep.models.layouts.diffusers_condition import config_from_diffusers_condition
from fewstep.models.net.build import build_unet
from fewstep.models.net.conditional import ConditionalUNet

WIDTH, TOKENS = 24, 7  # no other layer of the small network is so wide
SMALL = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 7.5], ids=["one row", "guided, two rows"])
def test_a_step_of_stable_diffusion_is_half_as_many_launches_as_diffusers(scale: float) -> None:
    pytest.importorskip("diffusers")
    subject = sd15()
    plan = make_plan("ddim", subject.schedule, 1)
    plan = plan if scale == 1 else plan.with_guidance(scale)
    ours, theirs = count_engine(subject, plan, 1), count_diffusers(subject, plan, 1)
    assert theirs is not None
    step, other = (each.network + each.between[0] for each in (ours, theirs))
    assert step.launches <= 479  # a third would be 320, and 226 are products, convolutions and attention alone
    assert step.launches <= 0.51 * other.launches
    assert step.bytes < 0.81 * other.bytes
    assert step.syncs == 0


def test_no_step_has_a_product_that_does_not_depend_on_x() -> None:
    subject = sd15()
    plan = make_plan("ddim", subject.schedule, 1).with_guidance(7.5)
    ops = count_engine(subject, plan, 1).network_ops
    blocks, transformers, skips = 16, 16, 14
    # Of a block qkv and q have no bias; both out, ff_in and ff_out have one, and so have a transformer's two ends.
    assert ops["aten::mm"].launches == 2 * blocks
    assert ops["aten::addmm"].launches == 4 * blocks + 2 * transformers + skips
    residual_blocks, down, up, ends = 22, 3, 3, 2
    assert ops["aten::convolution"].launches == 2 * residual_blocks + 2 * (down + up + ends)
    assert ops["fewstep::bias_residual"].launches == residual_blocks
    assert not {"aten::silu", "aten::sin", "aten::cos", "aten::exp", "aten::mul.Tensor"} & ops.keys()
    assert ops["fewstep::geglu"] == Cost(blocks, ops["fewstep::geglu"].bytes)


class Products(TorchDispatchMode):
    """Counts products of matrices [M, K] x [K, N] as (K, N), those within the network's calls apart."""

    def __init__(self) -> None:
        super().__init__()
        self.within = False
        self.counts: dict[bool, Counter[tuple[int, int]]] = {False: Counter(), True: Counter()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        if "convolution" not in name and ("mm" in name or "linear" in name):
            K, N = args[-1 if name in ("mm", "bmm") else 2].shape[-2:]
            self.counts[self.within][K, N] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("scale", "lanes"), [(1.0, 1), (5.0, 2)], ids=["plain", "guided"])
def test_a_run_projects_its_context_and_its_times_once_for_each_lane(
    scale: float, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    unet = build_unet(config_from_diffusers_condition({"_class_name": "UNet2DConditionModel", **SMALL}, "test"))
    assert isinstance(unet, ConditionalUNet)
    counter, samples, steps = Products(), 2, 4
    forward = ConditionalUNet.forward
    calls: list[Any] = []

    @functools.wraps(forward)
    def told(self: ConditionalUNet, x: Tensor, t: Tensor, **others: Tensor) -> Tensor:
        calls.append(x.shape)
        counter.within = True
        try:
            return forward(self, x, t, **others)
        finally:
            counter.within = False

    monkeypatch.setattr(ConditionalUNet, "forward", told)
    model = Model(unet, schedule=schedules.scaled_linear(), shape=(4, 8, 8), defaults={"sampler": "ddim"})
    engine = Engine(model, runner="eager")
    context = torch.randn(2, samples, TOKENS, WIDTH)
    request = {"steps": steps, "guidance_scale": scale, "condition": {"context": (context[0], context[1])}}
    engine.sample(samples, **request)  # the first call of a kind calls the module to compare with
    calls.clear()
    with counter:
        engine.sample(samples, **request)
    assert calls == [(samples * lanes, 4, 8, 8)] * steps
    embed = unet.config.embed_width
    of_times = [(32, embed), (embed, embed), (embed, unet.project.out_features)]
    of_context = {(WIDTH, 2 * channels): 0 for channels in (32, 64)}
    for transformer in unet.transformers().values():
        for cross in transformer.cross_attentions():
            of_context[cross.kv.in_features, cross.kv.out_features] += 1
    assert sum(of_context.values()) == unet.cross_attentions > 2
    ahead = {**of_context, **dict.fromkeys(of_times, 1)}
    assert counter.counts[False] == {shape: samples * lanes * count for shape, count in ahead.items()}
    assert not ahead.keys() & counter.counts[True].keys()
    assert counter.counts[True][32, 3 * 32] == steps * 3  # qkv, in each of the three transformers that are so wide

"""A sample's bits with a real U-Net: the same alone, in any company, at any slot."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fewstep import Classes, Engine, Model, schedules
from fewstep.diffusion.samplers import make_plan
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet

CONFIG = UNetConfig(
    in_channels=3,
    out_channels=3,
    channels=(32, 64),
    layers=1,
    down_attention=(False, True),
    up_attention=(False, True),
    down=("block",),
    up=("conv",),
    head_dim=32,
    groups=8,
    mid_attention_groups=8,
    scale_shift=True,
    num_classes=11,
)


def random_unet() -> UNet:
    torch.manual_seed(1)
    unet = UNet(CONFIG)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.05)
    return unet


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    model = Model(
        random_unet(),
        schedule=schedules.linear(),
        shape=(3, 16, 16),
        conditions=Classes(10, null=10),
        defaults={"sampler": "ddpm", "steps": 3, "clip": 1.0},
    )
    yield Engine(model, batch_invariant=True, max_batch=8)
    torch.set_num_threads(before)


@pytest.mark.parametrize("w", [1.0, 3.0], ids=["one half", "both halves"])
def test_bits_do_not_depend_on_company_or_slot(engine: Engine, w: float) -> None:
    alone = engine.sample(labels=[7], seeds=[3], guidance_scale=w).images[0]
    for slot, size in ((0, 2), (1, 2), (3, 4), (2, 3)):
        labels, seeds = [label % 10 for label in range(size)], list(range(100, 100 + size))
        labels[slot], seeds[slot] = 7, 3
        company = engine.sample(labels=labels, seeds=seeds, guidance_scale=w).images
        assert torch.equal(company[slot], alone)


def test_bits_do_not_depend_on_the_plans_of_others(engine: Engine) -> None:
    mine = make_plan("lcm", engine.model.schedule, 2, clip=1.0)
    alone = engine.sample(labels=[7], seeds=[3], plan=mine).images[0]
    guided = make_plan("ddpm", engine.model.schedule, 4, clip=1.0, guidance_scale=4.0, guidance_rescale=0.5)
    company = engine.sample(labels=[1, 7, 2], seeds=[8, 3, 9], plan=[guided, mine, guided]).images
    assert torch.equal(company[1], alone)


def test_without_it_only_rounding_depends_on_the_batch(engine: Engine) -> None:
    free = Engine(engine.model)
    alone = free.sample(labels=[7], seeds=[3]).images[0]
    company = free.sample(labels=[1, 7], seeds=[8, 3]).images[1]
    torch.testing.assert_close(company, alone, rtol=0, atol=1e-4)

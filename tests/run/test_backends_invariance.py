"""batch_invariant on every backend: a sample's bits are the same alone, in any company, at any slot."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from fewstep import Engine, Model, schedules
from fewstep.bench.subjects import PRESETS
from fewstep.models.layouts import diffusers
from fewstep.models.net.build import build_unet
from support.unet_case import SMALL, random_unet

SHAPES = {"tiny": (2, 8, 12), "CIFAR": (3, 32, 32)}
CASES = [
    pytest.param("openvino", torch.float32, "tiny", marks=pytest.mark.slow, id="openvino"),
    pytest.param("openvino", torch.bfloat16, "tiny", marks=pytest.mark.long, id="openvino bfloat16"),
    pytest.param("compile", torch.float32, "tiny", marks=pytest.mark.long, id="compile"),
    pytest.param("compile", torch.bfloat16, "tiny", marks=pytest.mark.long, id="compile bfloat16"),
    pytest.param("openvino", torch.float32, "CIFAR", marks=pytest.mark.long, id="openvino, CIFAR"),
    pytest.param("openvino", torch.bfloat16, "CIFAR", marks=pytest.mark.long, id="openvino bfloat16, CIFAR"),
    pytest.param("torch", torch.float32, "CIFAR", marks=pytest.mark.long, id="torch, CIFAR"),
    pytest.param("torch", torch.bfloat16, "CIFAR", marks=pytest.mark.long, id="torch bfloat16, CIFAR"),
]


def network(size: str) -> nn.Module:
    if size == "tiny":
        return random_unet(SMALL)
    config = diffusers.config_from_diffusers({"_class_name": "UNet2DModel", **PRESETS["cifar10-ddpm"]}, "cifar10-ddpm")
    torch.manual_seed(0)
    unet = build_unet(config).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.02 * torch.randn_like(parameter)  # the last layer of a new one is zero
    return unet


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("backend", "dtype", "size"), CASES)
@pytest.mark.usefixtures("two_threads")
def test_bits_do_not_depend_on_company_or_slot(backend: Any, dtype: torch.dtype, size: str) -> None:
    model = Model(network(size), schedule=schedules.linear(), shape=SHAPES[size], defaults={"sampler": "ddpm"})
    engine = Engine(model, backend=backend, dtype=dtype, batch_invariant=True, max_batch=3)
    alone = engine.sample(seeds=[7], steps=2).images[0]
    assert alone.isfinite().all()
    for seeds in ([7, 1], [1, 7], [1, 2, 7], [1, 7, 2]):
        company = engine.sample(seeds=seeds, steps=2).images
        assert torch.equal(company[seeds.index(7)], alone)
    assert engine.stats()["backend"]["name"] == backend
    assert len(engine.stats()["backend"]["calls"]) == 1, "one kind of call serves every batch"

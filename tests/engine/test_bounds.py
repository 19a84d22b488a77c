"""What cannot fit into memory is refused before it is begun, naming what to lessen; what may fit is not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fewstep import Engine, memory
from fewstep.bounds import Bounds
from fewstep.errors import ArgumentError, ModelError
from fewstep.models.load import load_model, save_model
from fewstep.models.net.unet import UNet, kept_numbers
from fewstep.run.buffers import Output
from support.loading_case import CONFIG, SPEC
from support.small import small_engine

GIB = 2**30


@pytest.fixture
def two_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2 * GIB)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(ArgumentError) as caught:
        action()
    return str(caught.value)


def test_the_way_down_keeps_what_is_counted() -> None:
    unet, kept = UNet(CONFIG).eval(), []
    for level in unet.down:
        for module in (*level.stages, level.resample):
            if module is not None:
                module.register_forward_hook(lambda *seen: kept.append(seen[2].numel()))
    unet.conv_in.register_forward_hook(lambda *seen: kept.append(seen[2].numel()))
    with torch.no_grad():
        unet(torch.zeros(1, 1, 16, 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    assert kept_numbers(CONFIG, 16, 8) == sum(kept) == 8 * (2 * 128 + 2 * 32)


def test_a_model_of_16384_x_16384_loads_and_says_what_a_sample_takes(tmp_path: Path, two_gib: None) -> None:
    save_model(tmp_path / "big", UNet(CONFIG), replace(SPEC, shape=(1, 16_384, 16_384)))
    engine = Engine.from_pretrained(tmp_path / "big", device="cpu")
    message = refusal(lambda: engine.sample(1, labels=[0]))
    needed = 4 * 16_384**2 * (2 + 8 * (2 + 2 / 4) + 1)
    assert message == (
        "shape: got [1, 16384, 16384]; allowed: what fits into memory; "
        f"one sample takes at least {needed / GIB:.1f} GiB, and 2.0 GiB are free"
    )


def bounds(max_batch: int, always: bool = False) -> Bounds:
    return Bounds(nn.Identity(), (3, 64, 64), torch.float32, torch.device("cpu"), max_batch, always)


def test_too_many_at_once_and_too_many_in_all_are_told_apart(two_gib: None) -> None:
    fits = 2 * GIB // (2 * 4 * 3 * 64**2)  # lanes
    bounds(fits).check_samples([1] * (fits // 2), None)
    many = refusal(lambda: bounds(10**6).check_samples([1] * (fits + 1), None))
    assert many.startswith(f"max_batch: got 1000000, for {fits + 1} samples; allowed: what fits into memory; a batch")
    bounds(10**6).check_samples([1] * 9, None)
    assert refusal(lambda: bounds(10**6, always=True).check_samples([1] * 9, None)).startswith("max_batch: got 1000000")
    some = [2] * (fits + 1)
    assert refusal(lambda: bounds(16).check_samples(some, None)).startswith(f"n: got {fits + 1}; allowed: what fits")
    bounds(16).check_samples(some, Output((3, 64, 64), torch.uint8))


def test_an_engine_asks_before_it_begins(two_gib: None) -> None:
    always = small_engine(max_batch=10**7, batch_invariant=True, device="cpu")
    assert refusal(lambda: always.sample(1, labels=[1])).startswith("max_batch: got 10000000, for 1 samples; allowed")
    assert refusal(lambda: always.samples(1, labels=[1])).startswith("max_batch: got 10000000")
    assert len(small_engine(device="cpu").sample(2, labels=[1, 2], steps=1)) == 2


@pytest.mark.parametrize(
    "sizes", [{"slots": 100_000, "steps": 100_000}, {"slots": 1000, "lanes": 200_001, "steps": 60_000}]
)
def test_a_session_that_cannot_be_held_is_refused(two_gib: None, sizes: dict[str, int]) -> None:
    message = refusal(lambda: small_engine(device="cpu").session(**sizes, features=["given_noise"]))
    assert message.startswith(f"slots: got {sizes['slots']}; allowed: what fits into memory; a session of ")


def test_weights_that_do_not_fit_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "tiny", UNet(CONFIG), SPEC)
    monkeypatch.setattr(memory, "ASKED_FROM", 0)
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(ModelError, match=r"model\.safetensors: does not fit into memory; the model in float32 takes"):
        load_model(tmp_path / "tiny")


def test_a_gpu_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 0)
    Bounds(nn.Identity(), (3, 64, 64), torch.float32, torch.device("cuda"), 10**7, True).check_samples([1], None)

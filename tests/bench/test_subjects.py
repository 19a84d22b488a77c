"""The registry of networks: each opens and samples, and is diffusers' own where that has it; what lacks is named."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fewstep.bench.subjects.folders as folders
from fewstep import Engine, Model, memory
from fewstep.bench.subjects import NETWORKS, TINY, Subject, latents, open_subject, pixels
from fewstep.bench.subjects.policy import ACTION, OBSERVATION, WIDTHS, PolicyUNet
from fewstep.bench.subjects.subject import RANDOM, TRAINED
from fewstep.errors import ArgumentError, ModelError
from fewstep.models.layouts.adm import Flags, config_from_adm
from fewstep.models.load import save_model
from fewstep.models.net.build import empty_unet
from fewstep.models.net.unet import count_parameters
from fewstep.models.spec import ModelSpec
from support.unet_case import random_unet

ARCHITECTURES = {
    "cifar10-ddpm": pixels.cifar10_ddpm,
    "cifar10-edm": pixels.cifar10_edm,
    "adm64": pixels.adm64,
    "sd15": latents.sd15,
    "sd21": latents.sd21,
    "sdxl": latents.sdxl,
}
STEPS = 4
BESIDE = ("cifar10-ddpm", "adm64", "sd15", "sd21", "sdxl")  # those that diffusers has


def drawn(subject: Subject, n: int = 2) -> torch.Tensor:
    """By the sampler of record."""
    sampler = (NETWORKS | TINY)[str(subject.source["name"])].samplers[0]
    return subject.engine.sample(n, steps=STEPS, sampler=sampler, seeds=0, **subject.asked(n)).images


@pytest.mark.parametrize("name", TINY)
def test_each_network_opens_made_tiny_and_samples(name: str) -> None:
    subject = open_subject(name, max_batch=2, beside=False)
    images = drawn(subject)
    assert images.shape == (2, *subject.engine.model.shape)
    assert images.isfinite().all()
    assert images.std() > 0.01
    assert subject.weights == TINY[name].weights == RANDOM
    assert "RANDOM weights (seed 0): for speed and parity, not for pictures" in subject.title
    assert subject.lacks_diffusers
    again = open_subject(**{"max_batch": 2, "beside": False, **subject.source})  # type: ignore[arg-type]
    assert torch.equal(drawn(again), images)


@pytest.mark.slow
@pytest.mark.parametrize("name", BESIDE)
@torch.no_grad()
def test_a_call_is_that_of_diffusers_own_module(name: str) -> None:
    pytest.importorskip("diffusers")
    subject = open_subject(f"{name}/tiny", max_batch=2)
    assert subject.lacks_diffusers == ""
    x = torch.randn(2, *subject.engine.model.shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([17, 901])
    ours = subject.module(x, t, **subject.inputs(2))
    theirs = subject.theirs(x, t, **subject.their_arguments(2, torch.float32)).sample
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", ["digits", "digits/teacher"])
def test_what_is_trained_is_said_to_be(name: str) -> None:
    subject = open_subject(name, max_batch=2)
    assert subject.weights == NETWORKS[name].weights == TRAINED
    assert "RANDOM" not in subject.title
    assert drawn(subject).isfinite().all()


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_digits_are_the_student_for_the_steps_that_are_asked(steps: int) -> None:
    assert NETWORKS["digits"].by_steps
    subject = open_subject("digits", steps=steps)
    assert subject.title == f"digits/{steps}-step"
    assert subject.source == {"name": "digits", "steps": steps}


def test_the_sizes_of_the_registry_are_what_networks_take() -> None:
    for name, architecture in ARCHITECTURES.items():
        for size in NETWORKS[name].sizes:
            found = architecture(size)
            assert found.shape[1:] == (size, size)
            assert found.unet.condition is not None or size % found.unet.size_multiple == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ARCHITECTURES, "policy"])
def test_the_memory_of_a_network_is_that_of_its_weights(name: str) -> None:
    with torch.device("meta"):
        other = PolicyUNet(ACTION, OBSERVATION, WIDTHS)
    network = empty_unet(ARCHITECTURES[name]().unet) if name in ARCHITECTURES else other
    assert NETWORKS[name].gib == pytest.approx(count_parameters(network) * 4 / 2**30, abs=0.01)


def test_a_network_that_does_not_fit_is_named_and_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2 << 30)
    assert NETWORKS["sdxl"].lacks_memory() == "sdxl in float32 takes at least 9.6 GiB, and 2.0 GiB are free"
    assert NETWORKS["adm64"].lacks_memory() == ""
    assert NETWORKS["adm64"].lacks_memory(copies=2) == "adm64 in float32 takes at least 2.2 GiB, and 2.0 GiB are free"
    with pytest.raises(ModelError, match="sdxl in float32 takes at least"):
        open_subject("sdxl")


def test_adm_is_the_network_of_the_published_flags() -> None:
    flags = Flags(64, 192, 3, attention_resolutions=(32, 16, 8), num_head_channels=64, resblock_updown=True)
    published = config_from_adm(Flags(**{**vars(flags), "learn_sigma": True, "num_classes": 1000}))
    found = pixels.adm64().unet
    same: tuple[str, ...] = (
        "channels",
        "layers",
        "down_attention",
        "up_attention",
        "down",
        "up",
        "head_dim",
        "scale_shift",
        "eps",
    )
    same += ("out_channels", "num_classes", "cos_first", "freq_shift", "time_width", "embed_width", "groups")
    assert [getattr(found, name) for name in same] == [getattr(published, name) for name in same]


def test_a_size_that_a_network_does_not_halve_is_refused() -> None:
    with pytest.raises(ArgumentError, match="size: got 30; allowed: a multiple of 8"):
        open_subject("cifar10-ddpm", size=30)
    assert open_subject("adm64/tiny", size=16, beside=False).engine.model.shape == (3, 16, 16)
    assert open_subject("policy/tiny", size=8).engine.model.shape == (ACTION, 1, 8)


def test_without_diffusers_its_module_is_named_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    subject = open_subject("cifar10-ddpm/tiny")
    assert subject.theirs is None
    assert subject.lacks_diffusers == "not installed: pip install 'fewstep[diffusers]'"


def test_a_name_that_is_no_network_is_told() -> None:
    with pytest.raises(ModelError, match="no such folder; in the box: digits"):
        open_subject("nothing")
    with pytest.raises(ArgumentError, match="own"):
        open_subject("digits", own={"shape": [3, 8, 8]})


def test_terrain_that_is_nowhere_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folders, "TERRAIN", tmp_path / "none")
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache" / "backends"))

    def gone(source: None, folder: Path) -> None:
        raise ModelError("adaptive-terrain-diffusion is not installed")

    monkeypatch.setattr(folders, "convert_terrain", gone)
    with pytest.raises(ModelError, match="terrain: is not here: run make demo-terrain; adaptive-terrain-diffusion"):
        open_subject("terrain")


def test_terrain_is_converted_once_into_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[Path] = []

    def convert(source: None, folder: Path) -> None:
        made.append(folder)
        config = pixels.cifar10_ddpm(8, pixels.TINY_DDPM).unet
        known: dict[str, Any] = {
            "name": "terrain",
            "family": "ddpm",
            "plan": {"sampler": "ddim", "steps": 4},
            "prediction": "eps",
        }
        spec = ModelSpec(unet=config, shape=(3, 8, 8), schedule={"name": "linear"}, **known)
        save_model(folder, random_unet(config), spec)

    monkeypatch.setattr(folders, "TERRAIN", tmp_path / "none")
    monkeypatch.setattr(folders, "convert_terrain", convert)
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache" / "backends"))
    for _ in range(2):
        subject = open_subject("terrain")
        assert subject.source == {"name": "terrain"}
        assert subject.title == "terrain"
    assert made == [tmp_path / "cache" / "models" / "terrain"]


@pytest.mark.slow
def test_another_dtype_takes_diffusers_module_along() -> None:
    pytest.importorskip("diffusers")
    subject = open_subject("sdxl/tiny", max_batch=2)
    half = subject.on("torch", torch.bfloat16)
    assert half.engine.dtype == next(half.theirs.parameters()).dtype == torch.bfloat16
    assert next(subject.theirs.parameters()).dtype == torch.float32
    assert {rows.dtype for rows in half.inputs(2).values()} == {torch.bfloat16}
    assert half.engine.sample(2, steps=1, seeds=0, **half.asked(2)).images.isfinite().all()
    assert isinstance(half.engine, Engine)
    assert isinstance(half.engine.model, Model)

"""Latents to images and back, as pipelines of diffusers do it, at the end of a run under both runners."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep import ArgumentError, Unconditional
from fewstep.pipelines.latents import LatentDecoder, LatentEncoder
from fewstep.pipelines.vae import accelerated_vae
from support.diffusers_case import relative_difference
from support.runners import engines, used_three_times
from support.small import small_engine
from support.vae_case import KL, decoded, in_dtype, latents, pictures, small_kl, small_tiny, small_vae

STATISTICS = {"latents_mean": (0.1, -0.2, 0.3, 0.0), "latents_std": (0.9, 1.1, 2.0, 0.5)}
kinds = pytest.mark.parametrize("name", [*KL, "TAESD"])


def to_autoencoder(vae: Any, x: Tensor) -> Tensor:
    """The latents that diffusers' pipelines decode for x."""
    config = vae.config
    if getattr(config, "latents_mean", None) is not None:
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (config.latents_mean, config.latents_std))
        return x * std / config.scaling_factor + mean
    return x / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)


@torch.no_grad()
def images_of(decoder: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = decoder(x)
    return result


@kinds
def test_images_are_those_that_pipelines_decode(name: str) -> None:
    vae = small_vae(name)
    decoder, x = LatentDecoder(vae), latents(vae)
    found = images_of(decoder, x)
    assert relative_difference(found, decoded(vae, to_autoencoder(vae, x))) <= 1e-5
    assert decoder.image_shape(tuple(x.shape[1:])) == found.shape[1:]


def test_a_mean_and_deviation_of_each_channel_are_undone_as_pipelines_do_it() -> None:
    vae = small_kl(**STATISTICS)
    x = latents(vae)
    expected = decoded(vae, to_autoencoder(vae, x))
    assert relative_difference(images_of(LatentDecoder(vae), x), expected) <= 1e-5
    assert relative_difference(images_of(LatentDecoder(small_kl()), x), expected) > 0.1


@pytest.mark.parametrize(
    ("height", "width"),
    [(8, 8), (9, 8), (14, 20), (21, 13), (6, 30)],
    ids=["one tile", "barely two", "six", "ten", "a row"],
)
@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.0], ids=["a quarter", "a half", "no overlap"])
def test_tiles_are_blended_as_diffusers_blends_them(height: int, width: int, overlap: float) -> None:
    vae = small_kl(block_out_channels=(8, 16), scaling_factor=1.0)
    vae.tile_overlap_factor = overlap
    z = latents(vae, 2, height, width)
    whole = decoded(vae, z)
    vae.enable_tiling()
    expected, found = decoded(vae, z), images_of(LatentDecoder(vae), z)
    assert found.shape == expected.shape
    assert relative_difference(found, expected) <= 1e-5
    tiled = max(height, width) > vae.tile_latent_min_size
    assert (relative_difference(whole, expected) > 1e-3) is tiled


@pytest.mark.parametrize(("height", "width"), [(16, 16), (30, 17)], ids=["an edge that is done twice", "six tiles"])
def test_tiles_of_a_tiny_autoencoder_fade_in_as_diffusers_has_them(height: int, width: int) -> None:
    vae = small_tiny(num_decoder_blocks=(1, 1, 1, 1), decoder_block_out_channels=(8, 8, 8, 8))
    vae.tile_latent_min_size = 16
    vae.enable_tiling()
    z = latents(vae, 1, height, width)
    found, expected = images_of(LatentDecoder(vae), z), decoded(vae, z)
    assert found.dtype == expected.dtype
    assert relative_difference(found, expected) <= 1e-5


def test_in_bfloat16_tiles_err_at_most_twice_as_much() -> None:
    exact = small_kl(block_out_channels=(8, 16), scaling_factor=1.0)
    exact.enable_tiling()
    z = latents(exact, 1, 14, 20)
    vae, expected = in_dtype(exact, torch.bfloat16), decoded(exact, z)
    own = relative_difference(images_of(LatentDecoder(vae), z.bfloat16()), expected)
    theirs = relative_difference(decoded(vae, z.bfloat16()), expected)
    print(f"{own:.1e} beside {theirs:.1e}")
    assert own <= 2 * theirs


def test_what_the_autoencoder_is_set_to_holds_unless_told() -> None:
    vae = small_kl(block_out_channels=(8, 16))
    x = latents(vae, 2, 9, 14)
    whole = LatentDecoder(vae)
    vae.enable_tiling()
    vae.enable_slicing()
    tiled = LatentDecoder(vae)
    vae.disable_tiling()
    assert tiled.sliced
    assert relative_difference(images_of(tiled, x), images_of(whole, x)) > 1e-3
    assert torch.equal(images_of(LatentDecoder(vae, tiled=True), x), images_of(tiled, x))
    assert torch.equal(images_of(LatentDecoder(vae, sliced=False), x), images_of(whole, x))


def test_weights_that_are_loaded_later_are_seen() -> None:
    vae = small_kl()
    decoder, x = LatentDecoder(vae), latents(vae)
    before = images_of(decoder, x)
    vae.load_state_dict({key: 1.1 * value for key, value in vae.state_dict().items()})
    expected = decoded(vae, to_autoencoder(vae, x))
    assert relative_difference(images_of(decoder, x), expected) <= 1e-5
    assert relative_difference(before, expected) > 0.01


def test_in_float16_one_that_would_overflow_decodes_and_encodes_in_float32() -> None:
    exact = small_kl(force_upcast=True, **STATISTICS)
    vae = in_dtype(exact, torch.float16)
    decoder, encoder = LatentDecoder(vae), LatentEncoder(vae)
    assert vae.dtype == torch.float16
    assert {each.dtype for part in (decoder, encoder) for each in part.parameters()} == {torch.float32}
    x = latents(exact)
    rounded = in_dtype(vae, torch.float32)
    assert relative_difference(images_of(decoder, x), decoded(rounded, to_autoencoder(exact, x))) <= 1e-3
    other = in_dtype(small_kl(force_upcast=False), torch.float16)
    assert next(LatentDecoder(other).parameters()).data_ptr() in {each.data_ptr() for each in other.parameters()}


@kinds
def test_an_image_becomes_the_latents_that_pipelines_start_from(name: str) -> None:
    vae = small_vae(name)
    images = pictures(vae)
    config = vae.config
    with torch.no_grad():
        found = LatentEncoder(vae)(images)
        answer = vae.encode(images)
    z = answer.latent_dist.mode() if hasattr(answer, "latent_dist") else answer.latents
    expected = (z - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor
    assert relative_difference(found, expected) <= 1e-5


@torch.no_grad()
def test_with_noise_the_latents_are_a_sample() -> None:
    vae = small_kl(**STATISTICS)
    images = pictures(vae)
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3))
    found = LatentEncoder(vae)(images, noise)
    assert relative_difference(to_autoencoder(vae, found), posterior.mean + posterior.std * noise) <= 1e-5
    with pytest.raises(ArgumentError, match=r"noise: got .*; allowed: None: AutoencoderTiny"):
        LatentEncoder(small_tiny())(images, noise)


class LatentNet(nn.Module):
    """A network on latents of 4 channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.conv(x) + t[:, None, None, None].to(x.dtype) / 1000)


def latent_engines(decoder: nn.Module, shape: tuple[int, int, int] = (4, 4, 6)) -> Any:
    return engines("cpu", LatentNet(), decoder=decoder, shape=shape, conditions=Unconditional())


ENDS = {
    "whole": lambda: LatentDecoder(small_kl()),
    "tiled": lambda: LatentDecoder(small_kl(sample_size=8, block_out_channels=(8, 16)), tiled=True),
    "sliced": lambda: LatentDecoder(small_kl(), sliced=True),
    "TAESD": lambda: LatentDecoder(small_tiny()),
    "of each channel": lambda: LatentDecoder(small_kl(**STATISTICS)),
}


@pytest.mark.parametrize("make", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("output", ["float", "uint8"])
def test_a_captured_run_ends_in_the_eager_runs_images(make: Any, output: str) -> None:
    eager, graph, runner = latent_engines(make())
    base = {"n": 2, "steps": 2, "output": output}
    found = used_three_times(graph, **base, seeds=[3, 4])
    assert torch.equal(found, eager.sample(**base, seeds=[3, 4]).images)
    for other in ({"sampler": "euler"}, {"seeds": [7, 8]}):
        expected = eager.sample(**(base | other)).images if "seeds" in other else None
        images = graph.sample(**(base | {"seeds": [3, 4]} | other)).images
        assert expected is None or torch.equal(images, expected)
    assert runner.stats()["captures"] == 1
    assert runner.stats()["hits"] == 3


def test_a_run_ends_in_the_images_that_diffusers_decodes() -> None:
    vae = small_kl()
    latent = small_engine(LatentNet(), shape=(4, 4, 6), conditions=Unconditional(), runner="eager")
    engine = latent_engines(LatentDecoder(vae))[0]
    x = latent.sample(n=2, steps=2, seeds=[3, 4]).images
    found = engine.sample(n=2, steps=2, seeds=[3, 4]).images
    assert relative_difference(found, decoded(vae, to_autoencoder(vae, x))) <= 1e-5


def test_an_engine_decodes_nothing_to_learn_the_size_of_its_images() -> None:
    decoder = LatentDecoder(small_kl())
    calls: list[Any] = []
    decoder.decoder.register_forward_hook(lambda *_: calls.append(None))
    engine = latent_engines(decoder)[0]
    assert not calls
    assert engine.sample(n=1, steps=1, seeds=0).images.shape == (1, 3, 8, 12)
    assert len(calls) == 1


def test_weights_loaded_after_a_capture_are_in_its_replays() -> None:
    vae = small_kl()
    eager, graph, runner = latent_engines(LatentDecoder(vae))
    base = {"n": 1, "steps": 2, "seeds": [3]}
    before = used_three_times(graph, **base)
    vae.load_state_dict({key: 1.1 * value for key, value in vae.state_dict().items()})
    after = graph.sample(**base).images
    assert torch.equal(after, eager.sample(**base).images)
    assert not torch.equal(after, before)
    assert runner.stats()["captures"] == 1


class OtherDecode(diffusers.AutoencoderKL):
    """A subclass, which may decode as it likes."""


def with_tiles(vae: Any, **settings: Any) -> Any:
    for name, value in settings.items():
        setattr(vae, name, value)
    return vae


WRONG = {
    "a subclass": (lambda: LatentDecoder(OtherDecode()), r"vae: got 'OtherDecode'; allowed: .* not a subclass"),
    "not an autoencoder": (lambda: LatentEncoder(nn.Conv2d(3, 3, 1)), r"vae: got 'Conv2d'; allowed: AutoencoderKL"),
    "tiled is no bool": (lambda: LatentDecoder(small_kl(), tiled=512), r"tiled: got 512; allowed: "),
    "tiles that do not fit": (
        lambda: LatentDecoder(with_tiles(small_kl(), tile_overlap_factor=0.4), tiled=True),
        r"vae: got .*tiles of 8 latents, 16 pixels, overlap 0.4; allowed: .* 8 pixels apart.*, and not 10",
    ),
    "tiles of two sides": (
        lambda: LatentDecoder(small_kl(sample_size=(16, 24)), tiled=True),
        r"vae: got .*tiles of 8 latents, \(16, 24\) pixels; allowed: one number",
    ),
    "tiny tiles side by side": (
        lambda: LatentDecoder(with_tiles(small_tiny(), tile_overlap_factor=0.0), tiled=True),
        r"vae: got .*tiles of 64 latents, overlap 0.0; allowed: an overlap of 1 to 63 latents",
    ),
    "other channels": (
        lambda: latent_engines(LatentDecoder(small_kl()), (3, 6, 10)),
        r"x: got \[1, 3, 6, 10\]; .*4, h, w",
    ),
    "gray pictures": (lambda: LatentEncoder(small_kl())(torch.ones(1, 1, 8, 8)), r"images: got .*; allowed: \[B, 3"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


def test_a_view_of_an_autoencoder_will_do() -> None:
    vae = small_kl()
    x = latents(vae)
    assert torch.equal(images_of(LatentDecoder(accelerated_vae(vae)), x), images_of(LatentDecoder(vae), x))
    assert np.isfinite(images_of(LatentDecoder(vae), x).numpy()).all()

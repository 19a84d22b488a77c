"""Where a sample starts if not from noise: an image at strength, around a known region, or where it was left."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fewstep.checks import number, one_of
from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError
from fewstep.request.images import as_images, as_latents, as_mask
from fewstep.run.encode import Encoder
from fewstep.run.sample import Sample
from fewstep_kernels import add_noise

Renoise = Literal["initial", "fresh"]


@dataclass(frozen=True, eq=False)
class Image:
    """Start from an image, noised as far as `strength` says (SDEdit, Meng et al. 2022, 2108.01073).

    Attributes:
        x: floats in [-1, 1] [C, H, W] or [B, C, H, W], uint8 arrays, or PIL images. Of a latent model with an encoder
            pictures in pixels, or latents: floats of the shape of its samples.
        strength: above 0 to 1: how much of the noise range is run. The number of model calls stays `steps`.
    """

    x: Any
    strength: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", _strength(self.strength))


@dataclass(frozen=True, eq=False)
class Inpaint:
    """Keep a known image outside of a mask, and generate what is inside.

    Attributes:
        x: the known image, as for `Image`.
        mask: [H, W] or [B, 1, H, W], 1 (white) where the sample is generated, 0 where x is kept. Of a latent model with
            an encoder as large as pictures, of which every latent takes the nearest pixel, or as latents.
        strength: below 1, what is generated starts from x too.
        renoise: the noise on the kept region: "initial", the run's own, or "fresh" at each row (RePaint, Lugmayr et
            al. 2022, 2201.09865).
    """

    x: Any
    mask: Any
    strength: float = 1.0
    renoise: Renoise = "initial"

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", _strength(self.strength))
        if not one_of(self.renoise, get_args(Renoise)):
            raise ArgumentError("renoise", self.renoise, " or ".join(get_args(Renoise)))


@dataclass(frozen=True, eq=False)
class Resume:
    """Go on with samples that `Step.state` kept: each has its plan, seed and condition.

    Attributes:
        states: one, or one per sample.
    """

    states: Sample | Sequence[Sample]

    def __post_init__(self) -> None:
        kept = self.samples if isinstance(self.states, Sample | Sequence) else []
        if not kept or not all(isinstance(each, Sample) for each in kept):
            raise ArgumentError("start", f"Resume({self.states!r})", "samples as Step.state keeps them")
        for each in kept:
            if each.start.index >= len(each.plan):
                raise ArgumentError("start", f"a sample at row {each.start.index}", f"a row below {len(each.plan)}")

    @property
    def samples(self) -> list[Sample]:
        """Of all states."""
        return [self.states] if isinstance(self.states, Sample) else list(self.states)


Start = Image | Inpaint


@dataclass(frozen=True, eq=False)
class Beginning:
    """How one sample begins.

    Attributes:
        strength: the share of the noise range that is run; 1 from noise.
        image: [C, H, W] what it is noised from; None for noise alone.
        known: [C, H, W] what is kept where the mask is 0.
        mask: [1, H, W].
        renoise: as in `Inpaint`; None without a mask.
    """

    strength: float = 1.0
    image: Tensor | None = None
    known: Tensor | None = None
    mask: Tensor | None = None
    renoise: Renoise | None = None

    def first_row(self, plan: Plan, given: bool) -> int:
        """The row at which a plan is entered: a plan that was given is entered late, one of our own is made shorter."""
        return min(round((1 - self.strength) * len(plan)), len(plan) - 1) if given else 0

    def x(self, plan: Plan, first_row: int, z: Tensor) -> Tensor:
        """x before row `first_row`: z [C, H, W] -> [C, H, W].

        From noise: init_scale z. From an image: signal_scale image + noise_scale z at the row's own level (SDEdit).
        """
        if self.image is None:
            return torch.zeros_like(z) if plan.init_scale == 0 else plan.init_scale * z
        scales = plan.levels.signal_scale[first_row], plan.levels.noise_scale[first_row]
        signal_scale, noise_scale = torch.tensor(scales, dtype=z.dtype, device=z.device)[:, None]
        return add_noise(self.image[None].to(z), signal_scale, noise_scale, z[None])[0]


def beginnings(start: object, count: int, shape: tuple[int, ...], encoder: Encoder | None = None) -> list[Beginning]:
    """How each of `count` samples begins.

    Args:
        start: None, an `Image` or `Inpaint` for all of them, or one (or None) per sample.
        shape: of a sample.
        encoder: what makes latents of pictures, for a model that has one.

    Raises:
        ArgumentError: something else, or images that do not fit.
    """
    if start is None:
        return [Beginning()] * count
    if isinstance(start, Start):
        return _begin(start, count, shape, encoder)
    if not isinstance(start, Sequence) or isinstance(start, str):
        raise ArgumentError("start", start, "fewstep.Image, Inpaint or Resume, or one per sample")
    if len(start) != count:
        raise ArgumentError("start", f"{len(start)} entries", f"one, or {count}: one per sample")
    return [beginnings(each, 1, shape, encoder)[0] for each in start]


def _begin(start: Start, count: int, shape: tuple[int, ...], encoder: Encoder | None) -> list[Beginning]:
    if len(shape) != 3:
        raise ArgumentError("start", type(start).__name__, f"none: samples of shape {list(shape)} are no pictures")
    size = (shape[0], shape[1], shape[2])
    images = _images(start.x, count, size, encoder)
    if isinstance(start, Image):
        return [Beginning(start.strength, image) for image in images]
    masks = _masks(start.mask, count, size, encoder)
    return [
        Beginning(start.strength, image if start.strength < 1 else None, image, mask, start.renoise)
        for image, mask in zip(images, masks, strict=True)
    ]


def _images(x: Any, count: int, size: tuple[int, int, int], encoder: Encoder | None) -> Tensor:
    """[count, C, H, W] x_0: the images, or the latents that stand for them."""
    latents = None if encoder is None else as_latents("image", x, count, size)
    if encoder is None or latents is not None:
        return as_images("image", x, count, size) if latents is None else latents
    images = as_images("image", x, count, encoder.images)
    if images.stride(0) == 0:  # one for all of them
        return encoder(images[0])[None].expand(count, *size)
    return torch.stack([encoder(image) for image in images])


def _masks(mask: Any, count: int, size: tuple[int, int, int], encoder: Encoder | None) -> Tensor:
    """[count, 1, H, W]."""
    if encoder is None or tuple(getattr(mask, "shape", ()))[-2:] == size[1:]:
        return as_mask("mask", mask, count, size)
    masks = as_mask("mask", mask, count, encoder.images)
    return torch.nn.functional.interpolate(masks, size=size[1:])


def _strength(strength: float) -> float:
    return number("strength", strength, 0, 1, open_low=True)

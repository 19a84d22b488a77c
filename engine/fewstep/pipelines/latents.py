"""Between the latents that a network sees and images: how a run of a latent model ends, and what it may start from."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.checks import flag
from fewstep.errors import ArgumentError
from fewstep.pipelines.tiles import Tiles, TinyTiles, pixels_of
from fewstep.pipelines.vae import SUPPORTED, accelerated_vae, kind_of


class LatentDecoder(nn.Module):
    """Images of the latents that a run ends in: the `decoder` of a `Model`, so that a captured run ends in pictures.

    It shares the tensors of the autoencoder, so weights that are loaded into it later are seen, and does what the
    pipelines of diffusers do around `vae.decode`. One in float16 whose config says `force_upcast`, as SDXL's does,
    would overflow: that decodes in float32, with a copy of the decoder's weights.
    """

    def __init__(self, vae: nn.Module, *, tiled: bool | None = None, sliced: bool | None = None) -> None:
        """Take the decoder of an autoencoder.

        Args:
            vae: AutoencoderKL or AutoencoderTiny of diffusers, or a view of one. It is left as it is.
            tiled: decode what is larger than a tile tile by tile, with the sizes that it has now; None as it is set to
                (`vae.enable_tiling()`). The numbers are those of its own tiled decode.
            sliced: decode one sample after the other; None as it is set to (`vae.enable_slicing()`).

        Raises:
            ArgumentError: another module, by its name, and what `accelerated_vae` refuses.
        """
        super().__init__()
        self.kind = _exact_kind(vae)
        view: Any = accelerated_vae(vae)
        tiled = view.use_tiling if tiled is None else flag("tiled", tiled)
        self.sliced = view.use_slicing if sliced is None else flag("sliced", sliced)
        self.tiles = (Tiles if self.kind == "AutoencoderKL" else TinyTiles).of(view) if tiled else None
        self.scale = _Scale(view)
        self.channels, self.colors = int(view.config.latent_channels), int(view.config.out_channels)
        self.pixels = pixels_of(view)
        self.post_quant_conv = getattr(view, "post_quant_conv", None)
        self.decoder = view.decoder
        if _overflows(view):
            self.post_quant_conv, self.decoder = _in_float32(self.post_quant_conv), _in_float32(self.decoder)
            self.scale.float()

    def forward(self, x: Tensor) -> Tensor:
        """Latents [B, C, h, w] as a network has them -> images [B, 3, H, W], -1 for black and 1 for white."""
        self._check(x.shape)
        z = self.scale.out_of(x)
        images = [self._decode(each) for each in (z.split(1) if self.sliced else (z,))]
        return images[0] if len(images) == 1 else torch.cat(images)

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(3, H, W) of the images of latents (C, h, w), so that nothing is decoded to learn it.

        Raises:
            ArgumentError: latents of other channels.
        """
        self._check((1, *shape))
        return self.colors, self.pixels * shape[1], self.pixels * shape[2]

    def _check(self, shape: Sequence[int]) -> None:
        if len(shape) != 4 or shape[1] != self.channels:
            raise ArgumentError("x", list(shape), f"latents [B, {self.channels}, h, w]")

    def _decode(self, z: Tensor) -> Tensor:
        return self._image(z) if self.tiles is None else self.tiles(self._image, z)

    def _image(self, z: Tensor) -> Tensor:
        image: Tensor = self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
        return image


class LatentEncoder(nn.Module):
    """Latents of images, for a start from one: what a run with a `LatentDecoder` takes as x_0.

    It shares the tensors of the autoencoder, and encodes by tiles and slices where that is set to. One that would
    overflow in float16 encodes in float32, with a copy of the weights; see `LatentDecoder`.
    """

    def __init__(self, vae: nn.Module) -> None:
        """Take an autoencoder: AutoencoderKL or AutoencoderTiny of diffusers, or a view of one.

        Raises:
            ArgumentError: another module, by its name, and what `accelerated_vae` refuses.
        """
        super().__init__()
        _exact_kind(vae)
        view: Any = accelerated_vae(vae)
        self.scale = _Scale(view)
        self.vae: Any = view
        if _overflows(view):
            self.vae = _in_float32(view)
            self.scale.float()

    def forward(
        self,
        images: Tensor,  # [B, 3, H, W], -1 for black and 1 for white
        noise: Tensor | None = None,  # [B, C, h, w]
    ) -> Tensor:  # [B, C, h, w]
        """The mean of what the encoder says, which is its mode too; with `noise` a sample, mean + std noise."""
        if images.ndim != 4 or images.shape[1] != self.vae.config.in_channels:
            raise ArgumentError("images", list(images.shape), f"[B, {self.vae.config.in_channels}, H, W]")
        answer = self.vae.encode(images.to(self.vae.dtype))
        if not hasattr(answer, "latent_dist"):
            if noise is not None:
                raise ArgumentError("noise", "a tensor", "None: AutoencoderTiny says one latent and no distribution")
            return self.scale.into(answer.latents)
        posterior = answer.latent_dist
        return self.scale.into(posterior.mean if noise is None else posterior.mean + posterior.std * noise)


class _Scale(nn.Module):
    """From z, as an autoencoder has latents, to those that a network sees, and back.

    x = (z - mean) scale / std where the config has a mean and a deviation of each channel, else x = (z - shift) scale.
    """

    mean: Tensor | None  # [1, C, 1, 1]
    std: Tensor | None  # [1, C, 1, 1]

    def __init__(self, vae: Any) -> None:
        super().__init__()
        config = vae.config
        self.scale = float(config.scaling_factor)
        self.shift = float(getattr(config, "shift_factor", None) or 0.0)
        given = {name: getattr(config, f"latents_{name}", None) for name in ("mean", "std")}
        both = None not in given.values()
        for name, values in given.items():
            column = torch.tensor(values, dtype=vae.dtype, device=vae.device).view(1, -1, 1, 1) if both else None
            self.register_buffer(name, column, persistent=False)

    def into(self, z: Tensor) -> Tensor:
        if self.mean is not None and self.std is not None:
            return (z - self.mean) * self.scale / self.std
        z = z if self.shift == 0.0 else z - self.shift
        return z if self.scale == 1.0 else z * self.scale

    def out_of(self, x: Tensor) -> Tensor:
        if self.mean is not None and self.std is not None:
            return x * self.std / self.scale + self.mean
        x = x if self.scale == 1.0 else x / self.scale
        return x if self.shift == 0.0 else x + self.shift


def _exact_kind(vae: nn.Module) -> str:
    """The class of diffusers that it is; a subclass may decode in another way."""
    kind = kind_of(vae)
    if type(vae).__name__ != kind or not type(vae).__module__.startswith("diffusers."):
        raise ArgumentError("vae", type(vae).__name__, f"{SUPPORTED}, and not a subclass")
    return kind


def _overflows(vae: Any) -> bool:
    return bool(vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False))


def _in_float32(module: nn.Module | None) -> Any:
    return None if module is None else copy.deepcopy(module).float()

"""Decoding a large image tile by tile, as diffusers does it, on a fixed grid: shapes and numbers depend on no value.

So a captured run can hold it. diffusers' own blends row by row of pixels, some hundred launches for each tile, and
AutoencoderTiny's copies a mask from the host, which a graph cannot hold.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.checks import whole
from fewstep.errors import ArgumentError

Decode = Callable[[Tensor], Tensor]


def pixels_of(vae: Any) -> int:
    """Pixels along the side of a latent: 8 for those of Stable Diffusion, whose decoder doubles it three times."""
    config = vae.config
    if "num_decoder_blocks" in config:
        return int(config.upsampling_scaling_factor ** (len(config.num_decoder_blocks) - 1))
    return int(2 ** (len(config.block_out_channels) - 1))


class Tiles(NamedTuple):
    """The grid of `AutoencoderKL.tiled_decode`: overlapping tiles, each blended into those above it and to its left.

    Attributes:
        size: latents along a tile's side.
        pixels: what that is in the image.
        overlap: the share of a tile's side that it has in common with the next.
    """

    size: int
    pixels: int
    overlap: float

    @classmethod
    def of(cls, vae: Any) -> "Tiles":
        """What an AutoencoderKL is set to.

        Raises:
            ArgumentError: diffusers would put the tiles together to an image of another size.
        """
        tiles = cls(vae.tile_latent_min_size, vae.tile_sample_min_size, vae.tile_overlap_factor)
        if whole(tiles.size) is None or whole(tiles.pixels) is None:
            raise ArgumentError("vae", f"tiles of {tiles.size} latents, {tiles.pixels} pixels", "one number for each")
        apart = tiles.step * pixels_of(vae)
        if apart != tiles.kept or not apart:
            found = f"tiles of {tiles.size} latents, {tiles.pixels} pixels, overlap {tiles.overlap}"
            allowed = f"sizes and an overlap by which tiles are {apart} pixels apart, as their latents are"
            raise ArgumentError("vae", found, f"{allowed}, and not {tiles.kept}")
        return tiles

    @property
    def step(self) -> int:
        """Latents from one tile to the next."""
        return int(self.size * (1 - self.overlap))

    @property
    def extent(self) -> int:
        """Pixels over which a tile is blended."""
        return int(self.pixels * self.overlap)

    @property
    def kept(self) -> int:
        """Pixels of a tile up to where the next one begins."""
        return self.pixels - self.extent

    def __call__(self, decode: Decode, z: Tensor) -> Tensor:
        """Images [B, 3, H, W] of latents [B, C, h, w]; whole where one tile holds them."""
        height, width = z.shape[2:]
        if max(height, width) <= self.size:
            return decode(z)
        kept = self.kept
        above: list[Tensor] = []
        bands = []
        for i in range(0, height, self.step):
            row: list[Tensor] = []
            for j in range(0, width, self.step):
                tile = decode(z[:, :, i : i + self.size, j : j + self.size])
                if above:
                    _blend(above[len(row)], tile, self.extent, dim=2)
                if row:
                    _blend(row[-1], tile, self.extent, dim=3)
                row.append(tile)
            bands.append(torch.cat([tile[:, :, :kept, :kept] for tile in row], dim=3))
            above = row
        return torch.cat(bands, dim=2)


class TinyTiles(NamedTuple):
    """The grid of `AutoencoderTiny._tiled_decode`: each tile is faded in over what is there already.

    Attributes:
        size: latents along a tile's side.
        scale: pixels along the side of a latent.
        overlap: the share of a tile's side over which it fades in.
        channels: of the image.
    """

    size: int
    scale: int
    overlap: float
    channels: int = 3

    @classmethod
    def of(cls, vae: Any) -> "TinyTiles":
        """What an AutoencoderTiny is set to.

        Raises:
            ArgumentError: its tiles do not overlap, or do nothing else.
        """
        tiles = cls(vae.tile_latent_min_size, pixels_of(vae), vae.tile_overlap_factor, vae.config.out_channels)
        if not 0 < tiles.blended < tiles.size:
            found = f"tiles of {tiles.size} latents, overlap {tiles.overlap}"
            raise ArgumentError("vae", found, f"an overlap of 1 to {tiles.size - 1} latents")
        return tiles

    @property
    def blended(self) -> int:
        """Latents over which a tile fades in."""
        return int(self.size * self.overlap)

    def __call__(self, decode: Decode, z: Tensor) -> Tensor:
        """Images [B, 3, H, W] float32 (float64 of float64) of latents [B, C, h, w]."""
        B, _, height, width = z.shape
        size, scale, blended = self.size, self.scale, self.blended
        wide = torch.promote_types(z.dtype, torch.float32)
        ramp = torch.arange(size * scale, dtype=wide, device=z.device) / (blended * scale - 1)
        ramp = ramp.clamp(0, 1)
        image = torch.zeros(B, self.channels, height * scale, width * scale, dtype=wide, device=z.device)
        for i in range(0, height, size - blended):
            for j in range(0, width, size - blended):
                tile = decode(z[:, :, i : i + size, j : j + size]).to(wide)
                there = image[:, :, i * scale : (i + size) * scale, j * scale : (j + size) * scale]
                rows = ramp if i else torch.ones_like(ramp)
                columns = ramp if j else torch.ones_like(ramp)
                share = rows[: tile.shape[2], None] * columns[: tile.shape[3]]
                there.copy_(torch.lerp(there, tile, share))
        return image


def _blend(before: Tensor, tile: Tensor, extent: int, dim: int) -> None:
    """Fade, along `dim`, from the last `extent` pixels of the tile before to the first of this one, in place.

    tile_y = (1 - y / extent) before_y + (y / extent) tile_y
    """
    extent = min(before.shape[dim], tile.shape[dim], extent)
    wide = torch.promote_types(tile.dtype, torch.float32)
    share = torch.arange(extent, dtype=wide, device=tile.device) / extent
    share = share[:, None] if dim == 2 else share
    end, beginning = before.narrow(dim, before.shape[dim] - extent, extent), tile.narrow(dim, 0, extent)
    beginning.copy_(torch.lerp(end.to(wide), beginning.to(wide), share))

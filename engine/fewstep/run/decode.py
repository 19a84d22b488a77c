"""The end of a run: from the final x to the images a user gets, by a decoder and as 8-bit pixels where asked for.

Plain torch ops on fixed buffers, so a graph of the run ends in them; once a run, they are not worth a kernel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewstep.checks import entries, one_of, whole
from fewstep.errors import ArgumentError
from fewstep.run.buffers import Output, StaticBuffers
from fewstep.run.denoiser import parameter_dtype
from fewstep.run.modules import own_module

OUTPUTS = ("float", "uint8")
GRAY = 128.0  # a NaN has no byte, and what a device casts it to is its own affair: 0 here, so black


class Images(NamedTuple):
    """What a run leaves: tensors of the user's own."""

    values: Tensor  # [B, C', H', W'] float32 (float64 of a float64 network), or [B, H', W', C'] uint8
    finite: Tensor | None = None  # [B] bool, beside pixels: those of a NaN cannot be told from others
    log_prob: Tensor | None = None  # [B, N] log p(x' | x) of each row, where that was asked for; else NaN

    @classmethod
    def cat(cls, parts: Sequence["Images"]) -> "Images":
        """Those of several batches, in order; of a single one as they are."""
        if len(parts) == 1:
            return parts[0]
        finite = [part.finite for part in parts if part.finite is not None]
        values = torch.cat([part.values for part in parts])
        return cls(values, torch.cat(finite) if finite else None, _log_prob(parts))


@dataclass(frozen=True)
class Decoder:
    """Images [B, C', H', W'] of x [B, C, H, W], -1 for black and 1 for white.

    Attributes:
        module: called with x in `dtype`, channels last; None where x is the image.
        shape: (C', H', W') of what it answers.
        dtype: of its parameters.
        state: the dtype of x, and of the images: float32, or float64 for a float64 network.
    """

    module: nn.Module | None
    shape: tuple[int, int, int]
    dtype: torch.dtype
    state: torch.dtype = torch.float32

    @classmethod
    def of(
        cls,
        module: nn.Module | None,
        shape: tuple[int, int, int],
        device: torch.device,
        state: torch.dtype = torch.float32,
    ) -> "Decoder":
        """The decoder a module is for x of `shape`.

        It is called with one x to learn the shape of its answer, unless it has a method `image_shape` that says it:
        (C, H, W) -> (C', H', W').

        Raises:
            ArgumentError: not a module, or one that does not answer with images.
        """
        if module is None:
            return cls(None, shape, state, state)
        if not isinstance(module, nn.Module):
            raise ArgumentError("decoder", type(module).__name__, "a torch.nn.Module")
        module = own_module(module, device)
        dtype = parameter_dtype(module)
        said: Callable[[tuple[int, int, int]], object] | None = getattr(module, "image_shape", None)
        if said is not None:
            return cls(module, _three(said(shape)), dtype, state)
        with torch.no_grad():
            answer = module(torch.zeros(1, *shape, dtype=dtype, device=device))
        if not isinstance(answer, Tensor) or not answer.is_floating_point() or answer.ndim != 4 or len(answer) != 1:
            found = f"{answer.dtype} {list(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
            allowed = f"a module that returns floats [B, C', H', W'] for x {['B', *shape]}"
            raise ArgumentError("decoder", f"an answer of {found} to one x", allowed)
        return cls(module, (answer.shape[1], answer.shape[2], answer.shape[3]), dtype, state)

    def output(self, kind: str, each: bool = False) -> Output | None:
        """What a run for "float" or "uint8" ends in; None where that is x itself. `each`: decoded one by one.

        Raises:
            ArgumentError: another kind.
        """
        if not one_of(kind, OUTPUTS):
            raise ArgumentError("output", kind, " or ".join(OUTPUTS))
        if kind == "uint8":
            return Output(self.shape, torch.uint8, each)
        return None if self.module is None else Output(self.shape, self.state, each)

    def __call__(self, x: Tensor) -> Tensor:
        """[B, C', H', W'] in the dtype of x."""
        if self.module is None:
            return x
        images: Tensor = self.module(x.to(self.dtype, memory_format=torch.channels_last))
        return images.to(self.state)

    def missing(self, count: int, output: Output | None, device: torch.device) -> Images:
        """Of samples that never ran: NaN, or as pixels 0 that are not finite."""
        if output is None or output.dtype != torch.uint8:
            shape = self.shape if output is None else output.shape
            return Images(torch.full((count, *shape), torch.nan, dtype=self.state, device=device))
        channels, height, width = output.shape
        pixels = torch.zeros(count, height, width, channels, dtype=torch.uint8, device=device)
        return Images(pixels, torch.zeros(count, dtype=torch.bool, device=device))


def _three(shape: object) -> tuple[int, int, int]:
    """(C, H, W) of an image."""
    sizes = [whole(size) or 0 for size in entries(shape) or ()]
    if len(sizes) != 3 or min(sizes) < 1:
        raise ArgumentError("decoder", f"an image_shape that answers {shape!r}", "one that answers (C, H, W)")
    return sizes[0], sizes[1], sizes[2]


def _log_prob(parts: Sequence[Images]) -> Tensor | None:
    """[B, N] of several batches, N the most rows that one has; NaN in those that others have not, or that never ran."""
    given = [part.log_prob for part in parts if part.log_prob is not None]
    if not given:
        return None
    total, rows = sum(len(part.values) for part in parts), max(each.shape[1] for each in given)
    found, first = given[0].new_full((total, rows), torch.nan), 0
    for part in parts:
        if part.log_prob is not None:
            found[first : first + len(part.values), : part.log_prob.shape[1]] = part.log_prob
        first += len(part.values)
    return found


def decode(decoder: Decoder, buffers: StaticBuffers) -> None:
    """The last stage of a run: write the buffers' images from x, or from the one that is final; else nothing."""
    b = buffers
    if b.images is None:
        return
    images = decoder(b.x if b.final is None else b.final)
    if b.finite is None:
        b.images.copy_(images)
    else:
        b.images.copy_(to_pixels(images))
        b.finite.copy_(finite_samples(images))


def taken(buffers: StaticBuffers, count: int) -> Images:
    """A copy of what the first `count` slots came to, since a later run reuses the buffers."""
    b = buffers
    if b.images is None:
        return Images(b.x[:count].clone())
    return Images(b.images[:count].clone(), None if b.finite is None else b.finite[:count].clone())


def taken_alone(buffers: StaticBuffers, slot: int) -> Images:
    """A copy of what one slot came to, where the run ends in x."""
    return Images(buffers.x[slot : slot + 1].clone())


def to_pixels(images: Tensor) -> Tensor:
    """uint8 [B, H, W, C] of images [B, C, H, W]: round((x + 1) * 127.5), clamped to 0..255; GRAY for NaN."""
    pixels = ((images.float() + 1.0) * 127.5).round().clamp(0, 255).nan_to_num(nan=GRAY)
    return pixels.to(torch.uint8).permute(0, 2, 3, 1)


def finite_samples(images: Tensor) -> Tensor:
    """[B] bool: whether every value of a sample is finite."""
    return torch.isfinite(images).flatten(1).all(dim=1)

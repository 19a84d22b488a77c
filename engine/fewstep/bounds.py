"""The least memory that a request or a session can take, refused where it cannot be had, before any of it is taken."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import nn

from fewstep.errors import ArgumentError
from fewstep.memory import check_memory
from fewstep.models.net.unet import UNet, kept_numbers
from fewstep.run.buffers import Output, Signature, StaticBuffers


class Bounds:
    """Of a network on a device, for samples of `shape` (C, H, W), at most `max_batch` lanes at once, or always so many.

    Counted are a batch's x and what it becomes, what the way down of our own U-Net keeps for the way up, and all images
    of a request, which are there twice where they come from several batches. A network takes more than that.
    """

    def __init__(
        self,
        module: nn.Module,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        device: torch.device,
        max_batch: int,
        always: bool,
    ) -> None:
        self.module, self.shape, self.dtype, self.device = module, shape, dtype, device
        self.max_batch, self.always = max_batch, always

    @cached_property
    def lane(self) -> int:
        """Bytes of a lane."""
        numbers = 2 * math.prod(self.shape)
        if isinstance(self.module, UNet):
            numbers += kept_numbers(self.module.config, *self.shape[1:])
        return numbers * self.dtype.itemsize

    def check_samples(self, lanes: Sequence[int], output: Output | None, *, together: bool = False) -> None:
        """ArgumentError for samples with so many lanes each that cannot run on this machine, naming what to lessen.

        Args:
            output: what the run ends in; None for x.
            together: all are there at once, as tensors of their own.
        """
        count, widest, image = len(lanes), max(lanes), self._image(output)
        self._fits("shape", list(self.shape), widest * self.lane + image, "one sample")
        at_once = self.max_batch if self.always else min(self.max_batch - widest + 1, sum(lanes))
        most = f"{self.max_batch}, for {count} samples"
        self._fits("max_batch", most, at_once * self.lane, "a batch of so many lanes")
        copies = 1 if together or sum(lanes) <= self.max_batch else 2
        self._fits("n", count, copies * count * image, f"the images of {count:,} samples")

    def check_session(self, signature: Signature) -> None:
        """ArgumentError for a session whose buffers, or whose batch, cannot be had on this machine."""
        try:
            buffers = StaticBuffers.allocate(replace(signature, device=torch.device("meta")))
        except RuntimeError:  # the product of some sizes is more than 64 bits hold
            raise ArgumentError("slots", signature.samples, "a session that fits into memory") from None
        size = buffers.nbytes + signature.lanes * self.lane
        what = f"a session of {signature.samples:,} slots, {signature.lanes:,} lanes and {signature.steps:,} steps"
        self._fits("slots", signature.samples, size, what)

    def _image(self, output: Output | None) -> int:
        shape, dtype = (self.shape, torch.float32) if output is None else (output.shape, output.dtype)
        return math.prod(shape) * dtype.itemsize

    def _fits(self, argument: str, value: object, needed: int, what: str) -> None:
        check_memory(argument, value, needed, what, self.device.type)

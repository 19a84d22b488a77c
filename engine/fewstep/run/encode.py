"""The beginning of a run of a latent model from a picture: what x_0 stands for it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep.errors import ArgumentError
from fewstep.run.denoiser import parameter_dtype
from fewstep.run.modules import own_module


@dataclass(frozen=True)
class Encoder:
    """x_0 [C, H, W] of images [C', H', W'], -1 for black and 1 for white.

    Attributes:
        module: called with images [1, C', H', W'] in `dtype`. One image is encoded without the others, so that its x_0
            does not depend on them.
        images: (C', H', W').
        shape: (C, H, W).
        device: of the module.
        dtype: of its parameters.
        state: the dtype of x.
    """

    module: nn.Module
    images: tuple[int, int, int]
    shape: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype
    state: torch.dtype = torch.float32

    @classmethod
    def of(
        cls,
        module: nn.Module | None,
        images: tuple[int, int, int],
        shape: tuple[int, int, int],
        device: torch.device,
        state: torch.dtype = torch.float32,
    ) -> "Encoder | None":
        """The encoder that a module is; None for none."""
        if module is None:
            return None
        module = own_module(module, device)
        return cls(module, images, shape, device, parameter_dtype(module), state)

    def __call__(self, image: Tensor) -> Tensor:
        """[C', H', W'] -> [C, H, W]. ArgumentError where the module answers with anything else."""
        with torch.no_grad():
            answer = self.module(image[None].to(self.device, self.dtype))
        if not isinstance(answer, Tensor) or tuple(answer.shape) != (1, *self.shape):
            found = f"an answer of {list(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
            raise ArgumentError("encoder", found, f"a module that returns {[1, *self.shape]} for an image")
        return answer[0].to(self.state)

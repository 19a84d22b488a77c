"""The average of the weights along a run, which samples better than where the run ends."""

import copy

import torch
from torch import Tensor, nn


class Ema:
    """average <- d_k average + (1 - d_k) weights,  d_k = min(decay, (1 + k) / (10 + k)) after step k = 1, 2, ...

    The warm-up of d_k keeps the random initial weights from lingering. `module` is a copy that holds the average, in
    evaluation mode.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._averages: list[Tensor] = list(self.module.parameters())
        self._buffers = list(self.module.buffers())

    @torch.no_grad()
    def update(self, module: nn.Module, k: int) -> None:
        """Take in the weights after step k, counted from 1; buffers are copied."""
        decay = min(self.decay, (1 + k) / (10 + k))
        weights: list[Tensor] = list(module.parameters())
        torch._foreach_lerp_(self._averages, weights, 1 - decay)
        for average, buffer in zip(self._buffers, module.buffers(), strict=True):
            average.copy_(buffer)

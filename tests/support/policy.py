"""A diffusion policy's U-Net: convolutions along the steps of an action sequence, each block steered by what is seen.

Its call is lerobot's, (x, timestep, global_cond), and its code is not fewstep's: to the engine it is any module.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class FilmBlock(nn.Module):
    """x' = skip(x) + conv_2(act(scale * act(norm(conv_1(x))) + shift)), scale and shift by the steering vector."""

    def __init__(self, inputs: int, outputs: int, steering: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv1d(inputs, outputs, 5, padding=2)
        self.norm = nn.GroupNorm(4, outputs)
        self.film = nn.Linear(steering, 2 * outputs)
        self.conv_2 = nn.Conv1d(outputs, outputs, 5, padding=2)
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, steering: Tensor) -> Tensor:
        """x [B, C_in, L], steering [B, S] -> [B, C_out, L]."""
        scale, shift = self.film(functional.mish(steering))[:, :, None].chunk(2, dim=1)
        h = functional.mish(self.norm(self.conv_1(x)))
        result: Tensor = self.skip(x) + self.conv_2(functional.mish(scale * h + shift))
        return result


class PolicyUNet(nn.Module):
    """Two levels; x [B, actions, L] with an even L, the condition [B, seen]."""

    def __init__(self, actions: int, seen: int, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        steering = width + seen
        self.down_1 = FilmBlock(actions, width, steering)
        self.coarser = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.down_2 = FilmBlock(width, 2 * width, steering)
        self.middle = FilmBlock(2 * width, 2 * width, steering)
        self.finer = nn.ConvTranspose1d(2 * width, width, 4, stride=2, padding=1)
        self.up = FilmBlock(2 * width, width, steering)
        self.out = nn.Conv1d(width, actions, 1)

    def forward(self, x: Tensor, timestep: Tensor, global_cond: Tensor) -> Tensor:
        """x [B, actions, L], timestep [B], global_cond [B, seen] -> eps [B, actions, L]."""
        index = torch.arange(self.width // 2, device=x.device, dtype=x.dtype)
        angle = timestep[:, None].to(x.dtype) * (index * -math.log(10_000) / (self.width // 2 - 1)).exp()
        steering = torch.cat([self.time(torch.cat([angle.sin(), angle.cos()], 1)), global_cond], 1)
        fine = self.down_1(x, steering)
        h = self.middle(self.down_2(self.coarser(fine), steering), steering)
        result: Tensor = self.out(self.up(torch.cat([self.finer(h), fine], 1), steering))
        return result

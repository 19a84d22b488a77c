"""A diffusion policy's U-Net: to the engine it is any module, and no network of images.

Chi et al., Diffusion Policy (2303.04137), section 4.1: convolutions along a sequence of actions, each block steered by
the step and by what is observed (FiLM, Perez et al. 2018). Of the size that is published for pushing a T.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from fewstep.bench.subjects.opening import Opening, random_condition
from fewstep.bench.subjects.subject import RANDOM, Subject
from fewstep.bench.subjects.weights import NO_COUNTERPART, RANDOM_WEIGHTS, randomize
from fewstep.diffusion import schedules
from fewstep.models.model import Model

ACTION, OBSERVATION = 2, 10  # numbers: where to push, and where two moments ago and now everything was
WIDTHS, TINY_WIDTHS = (256, 512, 1024), (16, 32)  # of each level
STEP = 256  # numbers that a step becomes
KERNEL, GROUPS = 5, 8


class Steered(nn.Module):
    """skip(x) + conv_2(scale conv_1(x) + shift), each convolution with its norm and activation."""

    def __init__(self, inputs: int, outputs: int, steering: int) -> None:
        super().__init__()
        self.conv_1, self.conv_2 = _convolution(inputs, outputs), _convolution(outputs, outputs)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(steering, 2 * outputs))
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, steering: Tensor) -> Tensor:
        """x [B, C_in, L], steering [B, S] -> [B, C_out, L]."""
        scale, shift = self.film(steering)[:, :, None].chunk(2, dim=1)
        result: Tensor = self.skip(x) + self.conv_2(scale * self.conv_1(x) + shift)
        return result


class PolicyUNet(nn.Module):
    """Predicts the noise of a sequence of actions, whose length is a multiple of 2 ** (levels - 1)."""

    def __init__(self, action: int, observation: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.step = nn.Sequential(nn.Linear(STEP, 4 * STEP), nn.Mish(), nn.Linear(4 * STEP, STEP))
        steering = STEP + observation
        self.down, self.coarser = nn.ModuleList(), nn.ModuleList()
        for inputs, outputs in pairwise((action, *widths)):
            self.down.append(_Pair(inputs, outputs, steering))
            last = len(self.down) == len(widths)
            self.coarser.append(nn.Identity() if last else nn.Conv1d(outputs, outputs, 3, stride=2, padding=1))
        self.middle = _Pair(widths[-1], widths[-1], steering)
        self.up, self.finer = nn.ModuleList(), nn.ModuleList()
        for outputs, inputs in reversed(list(pairwise(widths))):
            self.up.append(_Pair(2 * inputs, outputs, steering))
            self.finer.append(nn.ConvTranspose1d(outputs, outputs, 4, stride=2, padding=1))
        self.out = nn.Sequential(_convolution(widths[0], widths[0]), nn.Conv1d(widths[0], action, 1))

    def forward(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        """x [B, action, 1, L], t [B] of any real dtype, observation [B, numbers] -> eps [B, action, 1, L]."""
        h = x[:, :, 0]
        steering = torch.cat([self.step(_sinusoid(t).to(h.dtype)), observation], dim=1)
        kept = []
        for block, coarser in zip(self.down, self.coarser, strict=True):
            h = block(h, steering)
            kept.append(h)
            h = coarser(h)
        h = self.middle(h, steering)
        for block, finer in zip(self.up, self.finer, strict=True):
            h = finer(block(torch.cat([h, kept.pop()], dim=1), steering))
        result: Tensor = self.out(h)[:, :, None]
        return result


class _Pair(nn.Module):
    """Two blocks, as each level has them."""

    def __init__(self, inputs: int, outputs: int, steering: int) -> None:
        super().__init__()
        self.first, self.second = Steered(inputs, outputs, steering), Steered(outputs, outputs, steering)

    def forward(self, x: Tensor, steering: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x, steering), steering)
        return result


def policy(opening: Opening, widths: tuple[int, ...] = WIDTHS, horizon: int = 16) -> Subject:
    """With random weights, and one observation of random numbers; `size` is the horizon, in actions."""
    length = opening.size or horizon
    with torch.device(opening.device):
        module = PolicyUNet(ACTION, OBSERVATION, widths)
    schedule = schedules.cosine(100)
    model = Model(randomize(module), schedule=schedule, shape=(ACTION, 1, length), name=opening.name)
    return Subject(
        engine=opening.engine(model),
        title=f"{opening.name}, a diffusion policy's 1-D U-Net, {length} actions of {ACTION}, {RANDOM_WEIGHTS}",
        source=opening.source,
        weights=RANDOM,
        lacks_diffusers=NO_COUNTERPART,
        condition=random_condition({"observation": (OBSERVATION,)}, opening.device),
    )


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, KERNEL, padding=KERNEL // 2), nn.GroupNorm(GROUPS, outputs), nn.Mish()
    )


def _sinusoid(t: Tensor) -> Tensor:
    """[B] -> [B, STEP], as Vaswani et al. 2017 have it of positions."""
    half = STEP // 2
    rates = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(10_000) / (half - 1)))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)

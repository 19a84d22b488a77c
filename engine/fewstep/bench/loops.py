"""The sampling loops that papers and notebooks have, in plain torch: an independent check of the reference.

Coefficients come from alphas_cumprod (or sigma) inside the loop, each step on its own, as people write it. Nothing here
is shared with the engine but the network and the schedule's numbers; that is what makes it a reference.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.bench.subjects import Subject
from fewstep.diffusion.schedules import Schedule
from fewstep.errors import ArgumentError
from fewstep.models.model import Model

Network = Callable[[Tensor, Tensor], Tensor]  # (x [B, C, H, W], t [B]) -> prediction
Draw = Callable[[], Tensor]  # the next standard normals [B, C, H, W]: the start's, then those of each noisy step
Loop = Callable[[Network, Schedule, int, str, Draw], Tensor]


@torch.no_grad()
def ddim(network: Network, schedule: Schedule, steps: int, prediction: str, draw: Draw) -> Tensor:
    """x' = sqrt(ab_s) x_0 + sqrt(1 - ab_s) eps; Song et al., Denoising Diffusion Implicit Models, equation 12."""
    x = draw()
    alphas_cumprod = _alphas_cumprod(schedule, x)
    timesteps = trailing(len(schedule), steps)
    for i, t in enumerate(timesteps):
        ab_t = alphas_cumprod[t]
        ab_s = alphas_cumprod[timesteps[i + 1]] if i + 1 < steps else torch.ones_like(ab_t)
        m = network(x, told(schedule, t, x))
        x_0, eps = x_0_and_eps(x, m, ab_t, prediction)
        x = ab_s.sqrt() * x_0 + (1 - ab_s).sqrt() * eps
    return x


@torch.no_grad()
def ddpm(network: Network, schedule: Schedule, steps: int, prediction: str, draw: Draw) -> Tensor:
    """x' = posterior_mean_coef1 x_0 + posterior_mean_coef2 x + sqrt(variance) z, variance fixed_small.

    Ho et al., Denoising Diffusion Probabilistic Models, equations 6 and 7.
    """
    x = draw()
    alphas_cumprod = _alphas_cumprod(schedule, x)
    timesteps = trailing(len(schedule), steps)
    for i, t in enumerate(timesteps):
        ab_t = alphas_cumprod[t]
        ab_s = alphas_cumprod[timesteps[i + 1]] if i + 1 < steps else torch.ones_like(ab_t)
        alpha = ab_t / ab_s
        m = network(x, told(schedule, t, x))
        x_0, _ = x_0_and_eps(x, m, ab_t, prediction)
        x = ab_s.sqrt() * (1 - alpha) / (1 - ab_t) * x_0 + alpha.sqrt() * (1 - ab_s) / (1 - ab_t) * x
        if i + 1 < steps:
            x = x + ((1 - ab_s) / (1 - ab_t) * (1 - alpha)).sqrt() * draw()
    return x


@torch.no_grad()
def consistency(network: Network, schedule: Schedule, steps: int, prediction: str, draw: Draw) -> Tensor:
    """x' = f(x, sigma) + sqrt(sigma'^2 - sigma_min^2) z; Song et al., Consistency Models, algorithm 1.

    f = clamp(c_skip x + c_out F(c_in x, t), -1, 1) with sigma_data 0.5; sigma_min is the schedule's lowest.
    """
    sigma_data, sigma_min = 0.5, schedule.lowest
    z = draw()
    sigmas = torch.tensor(schedule.noise_scale, dtype=z.dtype, device=z.device)
    levels = trailing(len(schedule), steps)
    x = sigmas[levels[0]] * z
    for i, level in enumerate(levels):
        sigma = sigmas[level]
        c_skip = sigma_data**2 / ((sigma - sigma_min) ** 2 + sigma_data**2)
        c_out = sigma_data * (sigma - sigma_min) / (sigma**2 + sigma_data**2).sqrt()
        m = network(x / (sigma**2 + sigma_data**2).sqrt(), told(schedule, level, x))
        x = (c_skip * x + c_out * m).clamp(-1, 1)
        if i + 1 < steps:
            x = x + (sigmas[levels[i + 1]] ** 2 - sigma_min**2).sqrt() * draw()
    return x


@dataclass(frozen=True)
class WrittenLoop:
    """A loop, and the networks that it is written for."""

    loop: Loop
    kind: str  # of the schedule
    predictions: tuple[str, ...]

    def takes(self, model: Model) -> bool:
        """Whether the model's network and schedule are of these."""
        return model.schedule.kind == self.kind and model.prediction in self.predictions


LOOPS = {
    "ddim": WrittenLoop(ddim, "vp", ("eps", "x_0", "v")),
    "ddpm": WrittenLoop(ddpm, "vp", ("eps", "x_0", "v")),
    "consistency": WrittenLoop(consistency, "ve", ("consistency",)),
}


def loop_images(written: WrittenLoop, subject: Subject, steps: int, batch: int, draw: Draw) -> Tensor:
    """[B, C, H, W] of a subject's network on given noise; a learned variance is left aside, as fixed_small does."""
    inputs, channels = subject.inputs(batch), subject.engine.model.shape[0]

    def network(x: Tensor, t: Tensor) -> Tensor:
        answer: Tensor = subject.module(x, t, **inputs)
        return answer[:, :channels]

    return written.loop(network, subject.engine.model.schedule, steps, subject.engine.model.prediction, draw)


def trailing(count: int, steps: int) -> list[int]:
    """The timesteps of a few-step sampler: T - 1 first, evenly down, none below T / steps - 1."""
    return [round(count * (steps - i) / steps) - 1 for i in range(steps)]


def told(schedule: Schedule, level: int, like: Tensor) -> Tensor:
    """What the network is told at a level [B]: an integer where it counts timesteps or levels, else float32."""
    time = float(schedule.t[level])
    counts = schedule.time in ("timestep", "index") and time.is_integer()
    return torch.full((len(like),), int(time) if counts else time, device=like.device)


def x_0_and_eps(x: Tensor, m: Tensor, ab_t: Tensor, prediction: str) -> tuple[Tensor, Tensor]:
    """Both halves of x = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps from a prediction of either, or of v."""
    signal, noise = ab_t.sqrt(), (1 - ab_t).sqrt()
    if prediction == "eps":
        return (x - noise * m) / signal, m
    if prediction == "x_0":
        return m, (x - signal * m) / noise
    if prediction == "v":
        return signal * x - noise * m, signal * m + noise * x
    raise ArgumentError("prediction", prediction, "eps, x_0 or v, which these loops are written for")


def _alphas_cumprod(schedule: Schedule, like: Tensor) -> Tensor:
    return torch.tensor(schedule.alphas_cumprod, dtype=like.dtype, device=like.device)

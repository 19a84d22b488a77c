"""Your own network with the engine: any nn.Module called as module(x_in, t, labels=...) is a denoiser.

The one here is not even trained. It knows every picture of its world, so it can give the best answer there
is: their mean, each weighted by how likely it is behind the noise. A U-Net in its place changes nothing else.

    python examples/embed_your_unet.py            prints the plan and writes out/shapes.png
"""

import sys

import torch
from torch import Tensor, nn

import fewstep

SHAPES = ("disc", "ring", "square", "cross")


def draw_shapes(count: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Shapes of any colour and place, [count, 3, size, size] in [-1, 1], and which of SHAPES each is."""
    random, kinds = torch.Generator().manual_seed(0), torch.arange(count) % len(SHAPES)
    radius, hue, *center = torch.rand(4, count, 1, 1, generator=random)
    radius, axis = 0.3 + 0.25 * radius, torch.linspace(-1, 1, size)
    y, x = (axis[:, None] + 0.8 * center[0] - 0.4).abs(), (axis + 0.8 * center[1] - 0.4).abs()
    disc, square, arm = x.hypot(y), torch.maximum(x, y), torch.minimum(x, y)
    ring, cross = (disc - 0.7 * radius).abs() + 0.7 * radius, torch.maximum(square, arm + 0.65 * radius)
    outline = torch.stack([disc, ring, square, cross])[kinds, torch.arange(count)][:, None]
    ink = 0.35 + 0.6 * torch.cos(6.28 * (hue[:, None] + torch.tensor([0, 0.33, 0.67])[:, None, None]))
    return torch.lerp(0.08 * ink - 0.88, ink, torch.sigmoid((radius[:, None] - outline) * 2 * size)), kinds


class KnownPictures(nn.Module):
    """E[x_0 | x_t], x_0 one of the pictures x_k: sum_k softmax_k(-|x_t - signal x_k|^2 / (2 noise^2)) x_k."""

    def __init__(self, pictures: Tensor, kinds: Tensor, schedule: fewstep.schedules.Schedule) -> None:
        super().__init__()
        self.pictures, self.kinds = nn.Buffer(pictures.flatten(1)), nn.Buffer(kinds)
        self.signal_scale = nn.Buffer(torch.tensor(schedule.signal_scale, dtype=torch.float32))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:  # [R, C, H, W], [R], [R]
        signal = self.signal_scale[t.long(), None]
        overlap = x.flatten(1) @ self.pictures.T - signal * self.pictures.square().sum(1) / 2
        excluded = (labels[:, None] != self.kinds) & (labels[:, None] < len(SHAPES))
        weights = (signal * overlap / (1 - signal**2)).masked_fill(excluded, -torch.inf).softmax(1)
        return (weights @ self.pictures).view_as(x)


if __name__ == "__main__":
    schedule = fewstep.schedules.linear(1000)
    labels = fewstep.Classes(count=len(SHAPES), null=len(SHAPES))  # the null class stands for any shape
    denoiser = KnownPictures(*draw_shapes(400), schedule)
    model = fewstep.Model(denoiser, schedule=schedule, prediction="x_0", shape=(3, 32, 32), conditions=labels)
    engine = fewstep.Engine(model)
    samples = engine.sample(labels=[0, 1, 2, 3] * 4, steps=8, seeds=0)
    print(samples.plan.describe())
    print(samples, *samples.save(*(sys.argv[1:] or ["out/shapes.png"]), singles=False, columns=8))

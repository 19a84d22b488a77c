"""The smallest engine: a network with a time and a label, on pictures of 8x8."""

from typing import Any

import torch
from torch import Tensor, nn

from fewstep import Classes, Engine, Model, schedules
from fewstep.models.model import FIELDS

SHAPE = (3, 8, 8)


class SmallNet(nn.Module):
    """A conv, a time and a label: enough for every path through the engine."""

    def __init__(self, out: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, out, 3, padding=1)
        self.embedding = nn.Embedding(11, out)
        self.calls: list[tuple[int, ...]] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.note(x)
        h = self.conv(x) + t[:, None, None, None].to(x.dtype) / 1000
        return torch.tanh(h if labels is None else h + self.embedding(labels)[:, :, None, None])

    def note(self, x: Tensor) -> None:
        self.calls.append(tuple(x.shape))


class StyledNet(SmallNet):
    """One that also takes a style [R, C] and a guidance scale [R]."""

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        style: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        answer = super().forward(x, t, labels)
        answer = answer if style is None else answer + style[:, :, None, None]
        return answer if guidance is None else answer * guidance[:, None, None, None].to(answer.dtype)


class PureNet(StyledNet):
    """One that notes no calls, which a compiler of graphs would leave out."""

    def note(self, x: Tensor) -> None:
        pass


def small_model(net: nn.Module | None = None, **options: Any) -> Model:
    """Of ten classes and a null one."""
    settings: dict[str, Any] = {
        "schedule": schedules.linear(),
        "shape": SHAPE,
        "conditions": Classes(10, null=10),
        "defaults": {"sampler": "ddim", "steps": 4, "clip": 1.0},
    }
    return Model(net or SmallNet(), **(settings | options))


def small_engine(net: nn.Module | None = None, **options: Any) -> Engine:
    """With arguments of both `Model` and `Engine`."""
    of_model = {name: options.pop(name) for name in FIELDS if name in options}
    return Engine(small_model(net, **of_model), **options)


def picture(value: float = 0.25) -> Tensor:
    return torch.full(SHAPE, value)

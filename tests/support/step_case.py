"""The tensors of one step of three samples, random and in float64."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fewstep_kernels import COLUMN, COLUMNS


@dataclass
class Case:
    """The tensors of one step: three samples, the second without guidance."""

    x: Tensor
    x_in: Tensor
    history: Tensor
    preview: Tensor
    model_output: Tensor
    row: Tensor
    step: Tensor
    seed: Tensor
    cond_lane: Tensor
    uncond_lane: Tensor
    gradient: Tensor
    known: Tensor
    mask: Tensor


def make_case(shape: tuple[int, int, int], *, learned: bool = False, depth: int = 4) -> Case:
    generator = torch.Generator().manual_seed(sum(shape))

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    row = random(3, len(COLUMNS)).abs() * 0.5
    row[:, COLUMN["clip"]] = torch.tensor([float("inf"), 1.0, 2.0])
    row[:, COLUMN["clip_ratio"]] = 0
    row[:, COLUMN["phi"]] = 0
    row[:, COLUMN["w"]] = torch.tensor([3.0, 1.0, 1.5])
    row[:, COLUMN["known_fresh"]] = torch.tensor([0.0, 1.0, 0.0])
    channels, *size = shape
    return Case(
        x=random(3, *shape),
        x_in=torch.full((5, *shape), float("nan"), dtype=torch.float64),
        history=random(depth, 3, *shape),
        preview=torch.full((3, *shape), float("nan"), dtype=torch.float64),
        model_output=random(5, 2 * channels if learned else channels, *size),
        row=row,
        step=torch.tensor([5, 0, 2]),
        seed=torch.tensor([7, -3, 2**40]),
        cond_lane=torch.tensor([0, 3, 1]),
        uncond_lane=torch.tensor([4, 3, 2]),
        gradient=random(3, *shape),
        known=random(3, *shape),
        mask=torch.rand(3, 1, *size, generator=generator, dtype=torch.float64),
    )


def cast(case: Case, dtype: torch.dtype, device: str) -> Case:
    """A copy with the values of the float32 case, as `dtype` on `device`."""
    values = {each.name: getattr(case, each.name) for each in fields(case)}
    return Case(
        **{
            name: (value.float().to(dtype) if value.is_floating_point() else value).clone().to(device)
            for name, value in values.items()
        }
    )

"""Noise from outside: a tensor, or torch generators, in place of the seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.checks import as_tensor
from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError
from fewstep.run.noise import row_noise

Noise = Tensor | torch.Generator | Sequence[Tensor] | Sequence[torch.Generator]


@dataclass(frozen=True, eq=False)
class GivenNoise:
    """What a user gave.

    Attributes:
        source: "tensor" or "generator", for the record.
        tables: [N + 1, B, C, H, W]: the initial noise, and what each row adds.
    """

    source: str
    tables: Tensor


def given_noise(
    noise: object, plans: Sequence[Plan], seeds: Sequence[int], shape: tuple[int, ...]
) -> GivenNoise | None:
    """The noise of a request; None where the seeds draw it.

    Args:
        noise: a tensor or an array: [B, C, H, W] the initial noise (rows then draw from the seeds), or all of it,
            [N + 1, B, C, H, W]. Or a generator: it draws in the order in which diffusers' pipelines do, the initial
            noise of all samples and then once for each row that adds noise. Or one generator or one tensor [C, H, W]
            per sample.
        plans, seeds: one per sample.
        shape: of a sample.

    Raises:
        ArgumentError: something else, or another shape.
    """
    if noise is None:
        return None
    noise = as_tensor(noise)
    if isinstance(noise, torch.Generator):
        return GivenNoise("generator", _drawn(noise, plans, shape))
    if isinstance(noise, Tensor):
        return GivenNoise("tensor", _table(noise, plans, seeds, shape))
    listed = [as_tensor(each) for each in noise] if isinstance(noise, Sequence) else []
    if len(listed) != len(plans):
        raise ArgumentError("noise", f"{len(listed)} entries" if listed else noise, _allowed(plans, shape))
    if all(isinstance(each, torch.Generator) for each in listed):
        drawn = [_drawn(each, [plan], shape) for each, plan in zip(listed, plans, strict=True)]
        longest = max(len(each) for each in drawn)
        return GivenNoise("generator", torch.cat([_padded(each, longest) for each in drawn], dim=1))
    if all(isinstance(each, Tensor) and tuple(each.shape) == shape for each in listed):
        return GivenNoise("tensor", _table(torch.stack(listed), plans, seeds, shape))
    raise ArgumentError("noise", f"{len(listed)} entries", _allowed(plans, shape))


def _table(noise: Tensor, plans: Sequence[Plan], seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    count, steps = len(plans), max(len(plan) for plan in plans)
    if noise.is_floating_point() and tuple(noise.shape) == (count, *shape):
        if not any(plan.stochastic for plan in plans):
            return noise[None]
        wide = noise.to(torch.promote_types(noise.dtype, torch.float32))  # what the rows draw is not rounded to 16 bits
        return torch.cat([wide[None], row_noise(seeds, steps, shape).to(wide)])
    if noise.is_floating_point() and tuple(noise.shape) == (steps + 1, count, *shape):
        return noise
    raise ArgumentError("noise", f"{noise.dtype} {list(noise.shape)}", _allowed(plans, shape))


def _drawn(generator: torch.Generator, plans: Sequence[Plan], shape: tuple[int, ...]) -> Tensor:
    adds = [any(adds_noise(plan, i) for plan in plans) for i in range(max(len(plan) for plan in plans))]
    size = (len(plans), *shape)
    draws = [
        torch.randn(size, generator=generator, device=generator.device).cpu() if draw else torch.zeros(size)
        for draw in (True, *adds)
    ]
    return torch.stack(draws)


def _padded(table: Tensor, rows: int) -> Tensor:
    return torch.cat([table, table.new_zeros(rows - len(table), *table.shape[1:])])


def _allowed(plans: Sequence[Plan], shape: tuple[int, ...]) -> str:
    count, steps = len(plans), max(len(plan) for plan in plans)
    floats = f"floats {[count, *shape]}, or {[steps + 1, count, *shape]} with each row's noise"
    return f"{floats}; a torch.Generator; or one of either per sample"


def adds_noise(plan: Plan, row: int) -> bool:
    """Whether a row of a plan draws; False behind its end."""
    return row < len(plan) and bool(plan.column("s")[row] != 0)

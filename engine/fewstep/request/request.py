"""A request made whole: every argument of `Engine.sample` checked and brought to one entry per sample."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError
from fewstep.request.conditions import LabelSpec
from fewstep.request.lanes import halves_of
from fewstep.request.start import as_images, as_mask, initial_noise
from fewstep.run.buffers import State, as_int64
from fewstep_kernels import COLUMN, STREAM_STEP, normal

MAX_SAMPLES = 100_000


@dataclass(frozen=True)
class Request:
    """B samples, one entry each."""

    plans: Sequence[Plan]
    seeds: Sequence[int]
    first_rows: Sequence[int]  # the row each sample begins at
    conditioning: Mapping[str, Tensor]  # each [B, ...]
    negative: Mapping[str, Tensor]  # each [B, ...], the condition's stand-in where there is none
    image: Tensor | None = None  # [B, C, H, W]
    starts_from_image: bool = False  # else the image is only what the mask keeps
    mask: Tensor | None = None  # [B, 1, H, W]
    noise: Tensor | None = None  # [N + 1, B, C, H, W]: initial, then row by row
    resume: Sequence[State] = field(default_factory=tuple)

    def __len__(self) -> int:
        return len(self.seeds)


def sample_count(n: int | None, **arguments: Any) -> int:
    """How many samples a request asks for: `n`, or as many as its first per-sample argument has.

    Raises:
        ArgumentError: two arguments that disagree, or a count outside 1 to 100000.
    """
    counts = {"n": n} | {name: len(value) for name, value in arguments.items() if _has_length(value)}
    stated = {name: count for name, count in counts.items() if count is not None}
    count = next(iter(stated.values()), 1)
    for name, other in stated.items():
        if isinstance(other, bool) or not isinstance(other, int) or not 1 <= other <= MAX_SAMPLES:
            raise ArgumentError(name, other if name == "n" else f"{other} entries", f"1 to {MAX_SAMPLES} samples")
        if other != count:
            raise ArgumentError(name, f"{other} samples", f"{count}, as {next(iter(stated))} says")
    return count


def resolve_seeds(seeds: int | Sequence[int] | None, count: int) -> list[int]:
    """One seed per sample: None draws them, an integer s gives s, s + 1, ..."""
    if seeds is None:
        return [random.SystemRandom().getrandbits(32) for _ in range(count)]
    listed = list(range(seeds, seeds + count)) if isinstance(seeds, int) else list(seeds)
    for seed in listed:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise ArgumentError("seeds", seed, "integers from 0 to 2^64 - 1")
    return listed


def resolve_conditioning(
    spec: LabelSpec | None,
    labels: Sequence[float] | Tensor | None,
    conditioning: Mapping[str, Tensor] | None,
    negative: Mapping[str, Tensor] | None,
    plans: Sequence[Plan],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The condition of every sample, and what stands in for it in the unconditional half.

    Raises:
        ArgumentError: labels a model does not take, entries that are not one per sample, guidance without a null.
    """
    count = len(plans)
    cond, null = dict(conditioning or {}), dict(negative or {})
    for argument, tensors in (("conditioning", cond), ("negative_conditioning", null)):
        for name, rows in tensors.items():
            if not isinstance(rows, Tensor) or rows.ndim == 0 or rows.shape[0] != count:
                shown = f"shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
                raise ArgumentError(f"{argument}[{name!r}]", shown, f"a tensor with {count} rows, one per sample")
    if spec is None and labels is not None:
        raise ArgumentError("labels", list(labels), "nothing: this model takes no labels")
    if spec is not None and "labels" not in cond:
        cond["labels"] = spec.rows(labels, count)
        null_labels = spec.null_rows(count)
        if null_labels is not None:
            null.setdefault("labels", null_labels)
    if not null and any(halves_of(plan) != "cond" for plan in plans):
        w = next(plan.rows[:, COLUMN["w"]].max() for plan in plans if halves_of(plan) != "cond")
        raise ArgumentError(
            "guidance_scale", float(w), "1: there is no null label and no negative_conditioning to guide from"
        )
    return cond, null


def resolve_noise(
    noise: Tensor | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    plans: Sequence[Plan],
    seeds: Sequence[int],
    shape: tuple[int, int, int],
) -> Tensor | None:
    """Noise given from outside: [N + 1, B, C, H, W], the initial noise and then what each row adds; None for our own.

    Args:
        noise: [B, C, H, W] the initial noise (rows then draw from the seeds), or all of it, [N + 1, B, C, H, W].
        generator: one for all samples, or one per sample; draws in the order diffusers' pipelines do: the initial
            noise first, then once per row that adds noise.

    Raises:
        ArgumentError: both at once, or another shape.
    """
    count, steps = len(plans), max(len(plan) for plan in plans)
    if noise is not None and generator is not None:
        raise ArgumentError("generator", "a generator beside a noise tensor", "one of the two")
    if generator is not None:
        adds = [any(_adds_noise(plan, i) for plan in plans) for i in range(steps)]
        return torch.stack(
            [_draw(generator, count, shape) if draws else torch.zeros(count, *shape) for draws in [True, *adds]]
        )
    if noise is None:
        return None
    if noise.is_floating_point() and tuple(noise.shape) == (count, *shape):
        seed = torch.tensor([as_int64(each) for each in seeds], dtype=torch.int64)
        rows = [normal(seed, torch.full_like(seed, i), STREAM_STEP, list(shape)) for i in range(steps)]
        return torch.stack([noise, *(row.to(noise) for row in rows)])
    if noise.is_floating_point() and tuple(noise.shape) == (steps + 1, count, *shape):
        return noise
    allowed = f"floats {[count, *shape]}, or {[steps + 1, count, *shape]} with each row's noise"
    raise ArgumentError("noise", f"{noise.dtype} {list(noise.shape)}", allowed)


def build_request(
    *,
    plans: Sequence[Plan],
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    labels: LabelSpec | None,
    label_values: Sequence[float] | Tensor | None,
    conditioning: Mapping[str, Tensor] | None,
    negative: Mapping[str, Tensor] | None,
    image: Any,
    strength: float | None,
    mask: Any,
    noise: Tensor | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    resume: Sequence[State] | None,
    explicit_plan: bool,
) -> Request:
    """Check what depends on several arguments at once, and put the request together."""
    count = len(seeds)
    if image is None and (strength is not None or mask is not None):
        raise ArgumentError("image", None, "an image, which strength and mask are about")
    if strength is not None and not 0 < strength <= 1:
        raise ArgumentError("strength", strength, "a number above 0 and at most 1")
    if mask is not None and any(plan.closed for plan in plans):
        raise ArgumentError(
            "mask", "a mask", "no mask: this plan reads its past back from x, which re-noising would break"
        )
    if mask is None and image is not None and strength is None:
        raise ArgumentError("strength", None, "a number above 0 and at most 1 says how far from the image to start")
    cond, null = resolve_conditioning(labels, label_values, conditioning, negative, plans)
    shifted = explicit_plan and strength is not None
    first_rows = [round((1 - strength) * len(plan)) if shifted and strength is not None else 0 for plan in plans]
    for state, plan in zip(resume or (), plans, strict=True) if resume else ():
        if tuple(state.x.shape) != shape or not 0 <= state.index < len(plan):
            raise ArgumentError(
                "resume",
                f"shape {tuple(state.x.shape)}, row {state.index}",
                f"{shape}, a row below {len(plan)}",
            )
    return Request(
        plans=plans,
        seeds=seeds,
        first_rows=[state.index for state in resume]
        if resume
        else [min(r, len(p) - 1) for r, p in zip(first_rows, plans, strict=True)],
        conditioning=cond,
        negative=null,
        image=None if image is None else as_images("image", image, count, shape),
        starts_from_image=image is not None and strength is not None and (mask is None or strength < 1),
        mask=None if mask is None else as_mask("mask", mask, count, shape),
        noise=resolve_noise(noise, generator, plans, seeds, shape),
        resume=tuple(resume or ()),
    )


def starting_noise(request: Request, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """z each sample starts from: [B, C, H, W], given or by seed."""
    if request.noise is not None:
        return request.noise[0].to(device)
    return initial_noise(request.seeds, shape, device)


def _has_length(value: object) -> bool:
    return value is not None and hasattr(value, "__len__")


def _adds_noise(plan: Plan, row: int) -> bool:
    return row < len(plan) and bool(plan.rows[row, COLUMN["s"]] != 0)


def _draw(generator: torch.Generator | Sequence[torch.Generator], count: int, shape: tuple[int, int, int]) -> Tensor:
    if isinstance(generator, torch.Generator):
        return torch.randn(count, *shape, generator=generator, device=generator.device).cpu()
    if len(generator) != count:
        raise ArgumentError("generator", f"{len(generator)} generators", f"one, or {count}: one per sample")
    return torch.cat([torch.randn(1, *shape, generator=each, device=each.device).cpu() for each in generator])

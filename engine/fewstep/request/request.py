"""A request: all that a user asked for, checked, with one entry per sample; from here on nothing is ambiguous."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError
from fewstep.request.asked import ARGUMENTS, Asked, each, resolve_seeds
from fewstep.request.conditions import Condition
from fewstep.request.given_condition import check_names, given_condition
from fewstep.request.noise import GivenNoise, given_noise
from fewstep.request.planning import PLANNED, Planner, check_options
from fewstep.request.start import Beginning, Resume, beginnings
from fewstep.run.buffers import state_dtype
from fewstep.run.encode import Encoder
from fewstep.run.inputs import Inputs
from fewstep.run.noise import initial_noise
from fewstep.run.sample import Sample, State

MOVED = {  # arguments of 0.1, of `Engine.plan`, and of others
    "strength": "start=fewstep.Image(x, strength)",
    "image": "start=fewstep.Image(x, strength) or start=fewstep.Inpaint(x, mask), or control_image=x of a ControlNet",
    "mask": "start=fewstep.Inpaint(x, mask)",
    "renoise": "start=fewstep.Inpaint(x, mask, renoise=...)",
    "resume": "start=fewstep.Resume(states)",
    "generator": "noise=generator",
    "preset": "plan='lightning-4', by its name",
    "conditioning": "condition={name: tensor}",
    "negative_conditioning": "condition={name: (tensor, negative)}",
    # of the calls of diffusers' pipelines
    "num_inference_steps": "steps",
    "num_images_per_prompt": "n",
    "latents": "noise=tensor",
    "prompt_embeds": "prompt=tensor",
    "negative_prompt_embeds": "negative_prompt=tensor",
    "pooled_prompt_embeds": "prompt={'context': tensor, 'pooled': tensor}",
    "negative_pooled_prompt_embeds": "negative_prompt={'context': tensor, 'pooled': tensor}",
    "original_size": "sizes={'original_size': (height, width)}",
    "crops_coords_top_left": "sizes={'crops_coords_top_left': (top, left)}",
    "target_size": "sizes={'target_size': (height, width)}",
    "height": "Engine.from_pipeline(pipe, height=...)",
    "width": "Engine.from_pipeline(pipe, width=...)",
    "mask_image": "start=fewstep.Inpaint(x, mask)",
    "callback_on_step_end": "callback",
    "controlnet_conditioning_scale": "control_scale",
}


@dataclass(frozen=True, eq=False)
class Request:
    """B samples of a model.

    Attributes:
        plans, seeds, starts: one per sample.
        given: whether the plans were handed over, and not made for the request.
        options: whether options of a sampler were asked for, which may be about its levels.
        condition: what the network is given beside x and t, each [B, ...].
        null: what takes its place in the unconditional half, each [B, ...].
        labels: as they were asked for, in numbers, for the record; None where none were.
        recorded: what else was said of the condition, for the record, one mapping for each sample; or empty.
        scales: the guidance scale of each sample where its plan does not have it.
        noise: from outside; None for the seeds'.
        resumed: the samples that are gone on with, whole; empty where none is.
    """

    plans: Sequence[Plan]
    seeds: Sequence[int]
    starts: Sequence[Beginning]
    given: bool
    options: bool
    condition: Mapping[str, Tensor]
    null: Mapping[str, Tensor]
    labels: list[float] | None = None
    recorded: Sequence[Mapping[str, object]] = ()
    scales: Sequence[float] | None = None
    noise: GivenNoise | None = None
    resumed: Sequence[Sample] = ()

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def own_levels(self) -> bool:
        """Whether the plans surely visit the levels of the model's own."""
        return not self.given and not self.options and all(start.strength == 1 for start in self.starts)

    def parameters(self, place: int) -> dict[str, object]:
        """What made a sample beside its plan, seed and label, for the record; only what the user said."""
        start = self.starts[place]
        asked = start.image is not None or start.renoise is not None
        return {
            **(self.recorded[place] if self.recorded else {}),
            "strength": start.strength if asked else None,
            "renoise": start.renoise,
            "noise": None if self.noise is None else self.noise.source,
        }

    def samples(
        self, places: Sequence[int], shape: Sequence[int], device: torch.device, dtype: torch.dtype
    ) -> list[Sample]:
        """Some of the samples as tensors of `shape` and of the state's `dtype`, the noise of their start drawn."""
        if self.resumed:
            return [self.resumed[place] for place in places]
        z, tables = self._noise(places, shape, device, dtype)
        found = []
        for i, place in enumerate(places):
            start, plan = self.starts[place], self.plans[place]
            first = start.first_row(plan, self.given)
            found.append(
                Sample(
                    plan=plan,
                    seed=self.seeds[place],
                    start=State(start.x(plan, first, z[i]), None, first),
                    condition={name: rows[place] for name, rows in self.condition.items()},
                    null={name: rows[place] for name, rows in self.null.items()},
                    noise=None if tables is None else tables[:, i],
                    known=start.known,
                    mask=start.mask,
                )
            )
        return found

    def _noise(
        self, places: Sequence[int], shape: Sequence[int], device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """z [B, C, H, W], and [N + 1, B, C, H, W] where the noise of the rows is given."""
        if self.noise is None:
            return initial_noise([self.seeds[place] for place in places], shape, device).to(dtype), None
        tables = self.noise.tables[:, list(places)].flatten(2).view(-1, len(places), *shape).to(dtype)
        return tables[0].to(device), tables


def build_request(
    asked: Asked,
    planner: Planner,
    conditions: Condition,
    inputs: Inputs,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    encoder: Encoder | None = None,
) -> Request:
    """Check what was asked, and put the request together.

    Args:
        asked: by the user.
        planner: of the model.
        conditions: what it may be asked for.
        inputs: what the network's call takes.
        shape: of one sample.
        dtype: of the network, in which it gets what floats in `condition`.
        encoder: what makes latents of pictures, for starts.

    Raises:
        ArgumentError: naming the argument, its value and what is allowed.
    """
    count = asked.count()
    if isinstance(asked.start, Resume):
        return _resumed(asked, asked.start.samples, planner, inputs, shape)
    starts = beginnings(asked.start, count, shape, encoder)
    plans = _plans(asked, planner, starts)
    seeds = resolve_seeds(asked.seeds, count)
    condition, null, recorded = _conditions(asked, conditions, inputs, plans, dtype)
    condition = planner.guidance.condition(each(asked.guidance_scale, count), condition)
    condition |= {name: _held(condition[name], dtype) for name in planner.guidance.inputs}
    check_names(condition, inputs)
    return Request(
        plans=plans,
        seeds=seeds,
        starts=starts,
        given=asked.plan is not None and not _presets(asked),
        options=bool(asked.options),
        condition=condition,
        null=null,
        labels=None if asked.labels is None else condition["labels"].tolist(),
        recorded=recorded,
        scales=planner.guidance.recorded(condition),
        noise=given_noise(asked.noise, plans, seeds, shape),
    )


def _plans(asked: Asked, planner: Planner, starts: Sequence[Beginning]) -> list[Plan]:
    count, options = len(starts), dict(asked.options)
    check_options(options, (*ARGUMENTS, *PLANNED), MOVED)
    scales, rescale = each(asked.guidance_scale, count), options.pop("guidance_rescale", 0.0)
    if asked.plan is not None and not _presets(asked):
        beside = {"steps": asked.steps, "sampler": asked.sampler, **options}
        for name, value in beside.items():
            if value is not None:
                raise ArgumentError(name, value, "nothing beside a plan, which says it already")
        plans = planner.given(each_plan(asked.plan, count), scales, rescale)
    else:
        steps, samplers, presets = each(asked.steps, count), each(asked.sampler, count), each_plan(asked.plan, count)
        plans = [
            planner.plan(step, sampler, scale, rescale, start.strength, options, preset)
            for step, sampler, scale, start, preset in zip(steps, samplers, scales, starts, presets, strict=True)
        ]
    for plan, start in zip(plans, starts, strict=True):
        if plan.closed and start.mask is not None:
            allowed = "beside a mask others, such as ddim: it reads its past back from x, which re-noising would break"
            raise ArgumentError("sampler", plan.sampler, allowed)
    fresh = {id(plan): plan.with_known(fresh=True) for plan, at in zip(plans, starts, strict=True) if _fresh(at)}
    return [fresh[id(plan)] if _fresh(at) else plan for plan, at in zip(plans, starts, strict=True)]


def _presets(asked: Asked) -> bool:
    """Whether the plans are asked for by the names of presets."""
    plans = asked.plan if isinstance(asked.plan, list | tuple) else [asked.plan]
    return bool(plans) and all(isinstance(plan, str) for plan in plans)


def each_plan(plan: Plan | Sequence[Plan], count: int) -> list[Plan]:
    """A plan has a length, its steps, and yet is one for all."""
    return list(plan) if isinstance(plan, list | tuple) else [plan] * count  # type: ignore[list-item]


def _fresh(start: Beginning) -> bool:
    return start.renoise == "fresh"


def _conditions(
    asked: Asked, conditions: Condition, inputs: Inputs, plans: Sequence[Plan], dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor], Sequence[Mapping[str, object]]]:
    """The condition of every sample, and what stands in for it in the unconditional half, each [B, ...]; the record."""
    count, guided = len(plans), any(plan.halves != "cond" for plan in plans)
    condition, null = given_condition(asked.condition, count, inputs, dtype, guided)
    if asked.words.prompt is not None and all(plan.halves == "uncond" for plan in plans):
        allowed = "1 for the prompt alone, which diffusers writes as 0, or more: at 0 no sample reads its prompt"
        raise ArgumentError("guidance_scale", 0.0, allowed)
    rows = conditions.rows(asked.words, count, guided, tuple(condition))
    if wrong := [name for name, each in rows.condition.items() if len(each) != count]:
        raise ArgumentError(wrong[0], f"{len(rows.condition[wrong[0]])} of them", f"{count}, one per sample")

    def taken(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: _held(each, dtype) if name in rows.numbers else each.to(dtype) for name, each in tensors.items()}

    condition, null = condition | taken(rows.condition), taken(rows.null) | null
    if not null and guided:
        w = next(plan.column("w").max() for plan in plans if plan.halves != "cond")
        in_python = ", and no pair (tensor, null) in `condition`"
        raise ArgumentError("guidance_scale", float(w), "1: there is no null label to guide from", in_python)
    return condition, null, rows.recorded


def _held(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Labels and guidance scales as a network of this dtype takes them: floats as its x, which 16 bits do not round."""
    return numbers.to(state_dtype(dtype)) if numbers.is_floating_point() else numbers


def _resumed(
    asked: Asked, samples: Sequence[Sample], planner: Planner, inputs: Inputs, shape: tuple[int, ...]
) -> Request:
    """A request that goes on with samples; they say all there is to say."""
    said = {name: getattr(asked, name) for name in ("steps", "sampler", "guidance_scale", "seeds", "plan")}
    for name, value in {
        **asked.words.said,
        **said,
        "noise": asked.noise,
        "condition": asked.condition,
        **asked.options,
    }.items():
        if value is not None:
            raise ArgumentError(name, value, "nothing beside Resume: a sample that was kept says it already")
    for sample in samples:
        if tuple(sample.start.x.shape) != folded(shape):
            raise ArgumentError("start", f"a sample of shape {list(sample.start.x.shape)}", f"{list(folded(shape))}")
        if missing := [name for name in planner.guidance.inputs if name not in sample.condition]:
            raise ArgumentError("start", f"a sample without {missing[0]}", "one that was kept of this model")
        check_names(sample.condition, inputs)
        planner.check(sample.plan, "start")
    names = set.intersection(*(set(sample.condition) for sample in samples))
    condition = {
        name: torch.stack([sample.condition[name] for sample in samples])
        for name in names
        if len({tuple(sample.condition[name].shape) for sample in samples}) == 1
    }
    return Request(
        plans=[sample.plan for sample in samples],
        seeds=[sample.seed for sample in samples],
        starts=[Beginning() for _ in samples],
        given=True,
        options=False,
        condition=condition,
        null={},
        labels=_recorded_labels(samples),
        scales=planner.guidance.recorded(condition),
        resumed=samples,
    )


def _recorded_labels(samples: Sequence[Sample]) -> list[float] | None:
    """The labels of samples that were kept; None unless each has one that is not the one for no condition."""
    found: list[float] = []
    for sample in samples:
        label, null = sample.condition.get("labels"), sample.null.get("labels")
        if label is None or label.numel() != 1 or (null is not None and torch.equal(label, null)):
            return None
        found.append(float(label) if label.is_floating_point() else int(label))
    return found


def folded(shape: Sequence[int]) -> tuple[int, int, int]:
    """The (C, H, W) that a sample of any shape is held as: (C, L, 1) of (C, L), (C, D H, W) of (C, D, H, W)."""
    channels, *sizes = shape
    return channels, prod(sizes[:-1]) if len(sizes) > 1 else sizes[0], sizes[-1] if len(sizes) > 1 else 1

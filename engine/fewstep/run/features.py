"""What samples need of a session: the signature that has room for them, and what one lacks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fewstep.run.buffers import Output, Schema, Signature, table_capacity
from fewstep.run.denoiser import Denoiser
from fewstep.run.sample import Sample

AHEAD = 2**22  # numbers: 16 MB of noise drawn ahead at most

Prepared = tuple[Mapping[str, Tensor], ...]
"""What a denoiser made ahead of one sample, for each lane it owns."""


def signature_of(
    samples: Sequence[Sample],
    dtype: torch.dtype,
    device: torch.device,
    *,
    slots: int | None = None,
    lanes: int | None = None,
    watched: bool = False,
    output: Output | None = None,
    second_time: bool = False,
    log_prob: bool = False,
) -> Signature:
    """The features of a session that some samples need, and its size; but for what a denoiser prepares.

    Args:
        samples: at least one.
        dtype: of the network.
        device: where it runs.
        slots, lanes: the size; exactly as many as the samples take unless given.
        watched: somebody wants previews.
        output: what a run ends in; None for x.
        second_time: the network is told one; see `Inputs.second_time`.
        log_prob: somebody wants to know how probable each step was.
    """
    plans = [sample.plan for sample in samples]
    first, condition = samples[0], schema(samples[0].condition)
    return Signature(
        samples=len(samples) if slots is None else slots,
        lanes=sum(sample.lanes for sample in samples) if lanes is None else lanes,
        shape=_three(first.start.x.shape),
        steps=table_capacity(max(len(plan) for plan in plans)),
        dtype=dtype,
        device=device,
        history=max(plan.history for plan in plans),
        learned_variance=any(plan.learned_variance for plan in plans),
        stochastic=any(plan.stochastic for plan in plans),
        statistics=any(plan.statistics for plan in plans),
        preview=watched,
        given_noise=any(sample.noise is not None for sample in samples) or drawn_ahead(samples, device),
        known=any(sample.mask is not None for sample in samples),
        condition=condition,
        conditioning=condition,
        second_time=second_time,
        log_prob=log_prob,
        output=output,
    )


def drawn_ahead(samples: Sequence[Sample], device: torch.device) -> bool:
    """Whether the noise of all rows is drawn in one call: on a CPU, unless it would be large."""
    plans = [sample.plan for sample in samples]
    numbers = len(samples) * samples[0].start.x.numel() * max(len(plan) for plan in plans)
    return device.type == "cpu" and numbers <= AHEAD and any(plan.stochastic for plan in plans)


def prepare(denoiser: Denoiser, sample: Sample, signature: Signature) -> Prepared:
    """What a denoiser makes ahead of a sample, for each lane it owns, in buffers of a signature."""
    if not denoiser.prepares:
        return sample.conditions()

    def told(name: str) -> Tensor:  # [N]
        column = torch.tensor(sample.plan.column(name), dtype=signature.state_dtype)
        return torch.cat([column, column[-1:].expand(signature.steps - len(column))]).to(signature.device)

    times, ends = told("t"), told("r") if signature.second_time else None
    with torch.no_grad():
        return tuple(denoiser.prepare(condition, times, ends) for condition in sample.conditions())


def prepared_signature(signature: Signature, prepared: Prepared) -> Signature:
    """The signature with room for what the denoiser made of a sample."""
    conditioning = schema(prepared[0])
    return signature if conditioning == signature.conditioning else replace(signature, conditioning=conditioning)


def schema(tensors: Mapping[str, Tensor]) -> Schema:
    """Name, shape and dtype of all that a lane carries."""
    return tuple((name, tuple(rows.shape), rows.dtype) for name, rows in sorted(tensors.items()))


def unlike(signature: Signature, sample: Sample) -> str | None:
    """What a sample needs and a signature has not; None where it fits."""
    plan, shape, condition = sample.plan, tuple(sample.start.x.shape), schema(sample.condition)
    null = {name: rows for name, rows in sample.null.items() if name in sample.condition}
    lacking = (
        shape != signature.shape,
        len(plan) > signature.steps,
        plan.history > signature.history,
        plan.learned_variance and not signature.learned_variance,
        plan.stochastic and not signature.stochastic,
        plan.statistics and not signature.statistics,
        plan.second_time and not signature.second_time,
        sample.noise is not None and not signature.given_noise,
        sample.mask is not None and not signature.known,
        condition != signature.condition,
        schema(null) != schema({name: sample.condition[name] for name in null}),
    )
    if not any(lacking):
        return None
    needs = (
        f"a sample of shape {list(shape)}",
        f"a plan of {len(plan)} rows",
        f"a plan that reads {plan.history} past value{'s' * (plan.history > 1)}",
        "a learned variance",
        "noise",
        "a rescaled guidance or a dynamic threshold",
        "a second time r that is not t",
        "noise of its own",
        "a known region",
        f"the conditions {condition}",
        "a null condition of another shape or dtype than the condition",
    )
    return f"{needs[lacking.index(True)]}, which this session was not opened for"


def _three(shape: Sequence[int]) -> tuple[int, int, int]:
    channels, height, width = shape
    return channels, height, width

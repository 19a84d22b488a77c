"""The engine's step beside diffusers', sampler by sampler."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fewstep.checks import integer, number
from fewstep.cost.counter import Cost
from fewstep.cost.loops import DTYPE, SCHEDULERS, Counted, count_diffusers, count_engine
from fewstep.cost.subjects import Subject
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SAMPLERS, build_plan
from fewstep.errors import ArgumentError
from fewstep.version import __version__

FORMAT = 1
MAX_STEPS, MAX_BATCH = 1000, 1024
GUIDANCE_SCALE, GUIDANCE_RESCALE = 7.5, 0.7  # which numbers they are does not matter here
NO_DIFFUSERS = "not installed: pip install 'fewstep[diffusers]'"


@dataclass(frozen=True)
class Row:
    """One sampler, guided or not; `diffusers` is None where it is not installed or has no such sampler."""

    sampler: str
    guidance: str  # "none", "guided" or "guided, rescaled"
    engine: Counted
    diffusers: Counted | None


@dataclass(frozen=True)
class SubjectReport:
    """The rows of a subject, and the samplers that are left out with the reason."""

    subject: Subject
    rows: tuple[Row, ...]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Report:
    """What was counted, for how many samples and steps."""

    steps: int
    batch: int
    subjects: tuple[SubjectReport, ...]
    lacks_diffusers: str  # why it is not there; "" if it is

    def to_dict(self) -> dict[str, Any]:
        """As --json prints it; numbers are means over the steps of a run, and `per_step` has each."""
        return {
            "format": FORMAT,
            "versions": versions(),
            "steps": self.steps,
            "batch": self.batch,
            "dtype": str(DTYPE).removeprefix("torch."),
            "lacks_diffusers": self.lacks_diffusers or None,
            "subjects": [
                {
                    "name": part.subject.name,
                    "title": part.subject.title,
                    "shape": list(part.subject.shape),
                    "rows": [_row(part.subject, row) for row in part.rows],
                    "left_out": part.left_out,
                }
                for part in self.subjects
            ],
        }


def report(subjects: Sequence[Subject], steps: int = 4, batch: int = 1, guidance_scale: float | None = None) -> Report:
    """Count the samplers that have a row in `loops.SCHEDULERS` and that a subject's schedule takes.

    A step of any other sampler is as many launches.

    Args:
        subjects: whose steps.
        steps: model calls of a run.
        batch: samples of a run.
        guidance_scale: 0 or 1 counts without guidance, another number with it, None both.

    Raises:
        ArgumentError: an argument out of bounds, guidance asked of a subject that takes none, or steps that no
            sampler can do.
    """
    steps, batch = integer("steps", steps, 1, MAX_STEPS), integer("batch", batch, 1, MAX_BATCH)
    if guidance_scale is not None:
        guidance_scale = number("guidance_scale", guidance_scale, -1e6, 1e6)
        if guidance_scale not in (0, 1):
            if not any(subject.guided for subject in subjects):
                raise ArgumentError("guidance_scale", guidance_scale, "1: there is no null label to guide from")
            subjects = [subject for subject in subjects if subject.guided]
    lacks = "" if "diffusers" in versions() else NO_DIFFUSERS
    parts = tuple(_subject_report(subject, steps, batch, guidance_scale, not lacks) for subject in subjects)
    return Report(steps, batch, parts, lacks)


def versions() -> dict[str, str]:
    """Of what the numbers depend on; without diffusers where it is not installed."""
    found = {"fewstep": __version__, "torch": torch.__version__.split("+")[0]}
    try:
        import diffusers  # noqa: F401  there, and loadable

        found["diffusers"] = importlib.metadata.version("diffusers")
    except ImportError:
        pass
    return found


def mean(costs: Sequence[Cost]) -> dict[str, float]:
    """A step's launches, bytes and syncs on average; whole numbers as such."""
    total = sum(costs, Cost())
    means = {name: getattr(total, name) / len(costs) for name in ("launches", "bytes", "syncs")}
    return {name: int(value) if value == int(value) else value for name, value in means.items()}


def _subject_report(
    subject: Subject, steps: int, batch: int, guidance_scale: float | None, with_diffusers: bool
) -> SubjectReport:
    rows, left_out = [], {}
    for sampler in dict.fromkeys(name for name, _ in SCHEDULERS):
        if subject.schedule.kind not in SAMPLERS[sampler].kinds or sampler not in (subject.samplers or SAMPLERS):
            continue
        try:
            plain = _plan(subject, sampler, steps)
        except ArgumentError as error:
            left_out[sampler] = str(error)
            continue
        for guidance, plan in _variants(plain, subject, guidance_scale).items():
            theirs = count_diffusers(subject, plan, batch) if with_diffusers else None
            rows.append(Row(sampler, guidance, count_engine(subject, plan, batch), theirs))
    if not rows:
        raise ArgumentError("steps", steps, "; ".join(left_out.values()))
    return SubjectReport(subject, tuple(rows), left_out)


def _plan(subject: Subject, sampler: str, steps: int) -> Plan:
    prediction = None if SAMPLERS[sampler].predictions == ("consistency",) else subject.prediction
    options: dict[str, Any] = {"variance": "learned_range"} if sampler == "ddpm" and subject.learns_variance else {}
    return build_plan(sampler, subject.schedule, steps, prediction=prediction, **options)


def _variants(plain: Plan, subject: Subject, guidance_scale: float | None) -> dict[str, Plan]:
    w = GUIDANCE_SCALE if guidance_scale is None else guidance_scale
    variants = {} if guidance_scale is not None and w not in (0, 1) else {"none": plain}
    if subject.guided and w not in (0, 1):
        variants["guided"] = plain.with_guidance(w)
        if not subject.given:  # its network, which is counted again for each row, is what it is listed for
            variants["guided, rescaled"] = plain.with_guidance(w, GUIDANCE_RESCALE)
    return variants


def _row(subject: Subject, row: Row) -> dict[str, Any]:
    return {
        "sampler": row.sampler,
        "guidance": row.guidance,
        "engine": _counted(row.engine, not subject.opaque),
        "diffusers": None if row.diffusers is None else _counted(row.diffusers, subject.diffusers_config is not None),
    }


def _counted(counted: Counted, network: bool) -> dict[str, Any]:
    return {
        "between": mean(counted.between) | {"per_step": [cost.launches for cost in counted.between]},
        "network": mean([counted.network]) if network else None,
        "ops": counted.ops,
        "network_ops": {op: mean([cost]) for op, cost in counted.network_ops.items()} if network else None,
    }

"""Parity: before anything is timed, the contenders' images must agree."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fewstep.bench.contenders import (
    DIFFUSERS,
    ENGINE,
    Case,
    diffusers_pipeline,
    eager_images,
    lacks_diffusers,
    normals,
    plan_of,
)
from fewstep.bench.subject import Subject
from fewstep.errors import FewstepError
from fewstep_kernels import STREAM_INITIAL, STREAM_STEP, normal

TOLERANCE = 1e-4  # of the largest value, in float32
SEED = 1


class ParityError(FewstepError):
    """Contenders that should agree do not, so no speed may be printed."""


def differences(subject: Subject, case: Case) -> dict[str, float]:
    """How far each contender's images are from the eager reference's: max |a - b| / max |b|.

    The engine is compared twice, and the larger number counts: on torch's noise, given to all contenders by the same
    generator, and on its own noise by seed, given to the reference as tensors.
    """
    reference = eager_images(subject, case, normals(subject, case, SEED))
    labels, plan = subject.labels(case.batch), plan_of(subject, case)
    generator = torch.Generator(subject.engine.device).manual_seed(SEED)
    given = subject.engine.sample(case.batch, plan=plan, labels=labels, noise=generator, seeds=SEED).images
    own = subject.engine.sample(case.batch, plan=plan, labels=labels, seeds=SEED).images
    by_seed = _philox(subject, case)
    both = relative(given, reference), relative(own, eager_images(subject, case, lambda: next(by_seed)))
    found = {ENGINE: float(torch.tensor(both).max())}  # Python's max would pass over a NaN
    if not lacks_diffusers(subject, case):
        found[DIFFUSERS] = relative(_unclamped(subject, case), reference)
    return found


def check(subject: Subject, case: Case, tolerance: float = TOLERANCE) -> dict[str, float]:
    """`differences`, all within the tolerance.

    Raises:
        ParityError: naming the contender, the case and the difference.
    """
    found = differences(subject, case)
    for contender, difference in found.items():
        if not difference <= tolerance:
            raise ParityError(
                f"{contender} and the eager reference differ by {difference:.1e} of the largest value "
                f"(allowed: {tolerance:.0e}) at {case}; no speed is printed"
            )
    return found


def relative(images: Tensor, reference: Tensor) -> float:
    """max |a - b| / max |b|, and 0 for equal images; nan, which is within no tolerance, where one is not finite."""
    a, b = images.double().cpu(), reference.double().cpu()
    apart = (a - b).abs().max()
    return 0.0 if apart == 0 else float(apart / b.abs().max())


def _philox(subject: Subject, case: Case) -> Iterator[Tensor]:
    """The engine's own noise, in the order in which the reference draws."""
    seed = torch.arange(SEED, SEED + case.batch, device=subject.engine.device)
    yield normal(seed, torch.zeros_like(seed), STREAM_INITIAL, list(subject.engine.model.shape))
    for row in range(case.steps):
        yield normal(seed, torch.full_like(seed, row), STREAM_STEP, list(subject.engine.model.shape))


def _unclamped(subject: Subject, case: Case) -> Tensor:
    """What diffusers' scheduler returned last: the pipeline's images are clamped, which would hide differences."""
    pipeline = diffusers_pipeline(subject, case.sampler)
    step, kept = pipeline.scheduler.step, []

    def keep(*arguments: object, **named: object) -> object:
        kept.append(step(*arguments, **named))
        return kept[-1]

    pipeline.scheduler.step = keep
    generator = torch.Generator(subject.engine.device).manual_seed(SEED)
    pipeline(batch_size=case.batch, generator=generator, num_inference_steps=case.steps, output_type="pt")
    last: Tensor = kept[-1].prev_sample
    return last

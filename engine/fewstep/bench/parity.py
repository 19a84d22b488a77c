"""Parity: before anything is timed, the contenders' images must agree."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fewstep.bench.contenders import (
    DIFFUSERS,
    EAGER,
    ENGINE,
    Case,
    Contender,
    diffusers_pipeline,
    eager_images,
    normals,
    plan_of,
)
from fewstep.bench.lineup import Lineup
from fewstep.bench.subjects import Subject
from fewstep.errors import FewstepError
from fewstep.run.backends.parity import BOUNDS
from fewstep_kernels import STREAM_INITIAL, STREAM_STEP, normal

Measure = Callable[[Tensor, Tensor], float]

TOLERANCE = 1e-4  # of the largest value, in float32
# In bfloat16 one value in a thousand may be far off, with torch's own as well, so it is all values that are judged.
TOLERANCES = {"float32": TOLERANCE, "bfloat16": BOUNDS[torch.bfloat16]}
MEASURES = {"float32": "of the largest value", "bfloat16": "over all values"}
SEED = 1


class ParityError(FewstepError):
    """Contenders that should agree do not, so no speed may be printed."""


def differences(lineup: Lineup, case: Case) -> dict[Contender, float]:
    """How far each contender's images are from those of the eager loop in float32.

    In float32 that is `relative`, in bfloat16 `over_all`. An engine is compared twice, and the larger number counts: on
    torch's noise, given to all contenders by the same generator, and on its own by seed, given to the reference.
    """
    found, reference = {}, Reference(lineup.exact, case)
    for entrant in lineup.entrants:
        entrant.make_ready(case)
        contender, subject = entrant.contender, entrant.subject
        if entrant.absent(case):
            continue
        if contender.kind == ENGINE:
            found[contender] = _engine(subject, case, reference, relative if contender.exact else over_all)
        elif contender.kind == EAGER and not contender.exact:
            found[contender] = over_all(eager_images(subject, case, normals(subject, case, SEED)), reference.drawn)
        elif contender.kind == DIFFUSERS:
            images = _unclamped(subject, case)
            if contender.exact:
                found[contender] = relative(images, reference.drawn)
            else:
                found[contender] = over_all(images, reference.drawn_in(subject.engine.dtype))
    return found


def check(lineup: Lineup, case: Case, tolerances: Mapping[str, float] = TOLERANCES) -> dict[Contender, float]:
    """`differences`, all within the tolerance of their dtype.

    Raises:
        ParityError: naming the contender, the case and the difference.
    """
    found = differences(lineup, case)
    for contender, difference in found.items():
        allowed = tolerances[contender.dtype]
        if not difference <= allowed:
            raise ParityError(
                f"{contender.name} and the eager reference differ by {difference:.1e} {MEASURES[contender.dtype]} "
                f"(allowed: {allowed:.0e}) at {case}; no speed is printed"
            )
    return found


def relative(images: Tensor, reference: Tensor) -> float:
    """max |a - b| / max |b|, and 0 for equal images; nan, which is within no tolerance, where one is not finite."""
    a, b = images.double().cpu(), reference.double().cpu()
    apart = (a - b).abs().max()
    return 0.0 if apart == 0 else float(apart / b.abs().max())


def over_all(images: Tensor, reference: Tensor) -> float:
    """|a - b| / |b|, each over all values; nan where one is not finite."""
    a, b = images.double().cpu(), reference.double().cpu()
    return float((a - b).norm() / b.norm())


@dataclass(frozen=True)
class Reference:
    """The images of the eager loop in float32."""

    subject: Subject
    case: Case

    @cached_property
    def drawn(self) -> Tensor:
        """On torch's noise."""
        return self.drawn_in(torch.float32)

    def drawn_in(self, dtype: torch.dtype) -> Tensor:
        """On torch's noise in a dtype, as diffusers draws it for a network in that."""
        draw = normals(self.subject, self.case, SEED, dtype)
        return eager_images(self.subject, self.case, lambda: draw().float())

    @cached_property
    def seeded(self) -> Tensor:
        """On the engine's noise."""
        draws = _philox(self.subject, self.case)
        return eager_images(self.subject, self.case, lambda: next(draws))


def _engine(subject: Subject, case: Case, reference: Reference, measure: Measure) -> float:
    asked, plan = subject.asked(case.batch), plan_of(subject, case)
    generator = torch.Generator(subject.engine.device).manual_seed(SEED)
    given = subject.engine.sample(case.batch, plan=plan, noise=generator, seeds=SEED, **asked).images
    own = subject.engine.sample(case.batch, plan=plan, seeds=SEED, **asked).images
    both = measure(given, reference.drawn), measure(own, reference.seeded)
    return float(torch.tensor(both).max())  # Python's max would pass over a NaN


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

"""Parity: before anything is timed, a contender's images must be those of the eager reference in float32."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fewstep.bench.contenders import BARE, DIFFUSERS, EAGER, Absent, Case, Contender, Racer
from fewstep.bench.contenders.case import in_turn, normals, plan_of, seeded
from fewstep.bench.contenders.contender import CHANNELS_LAST
from fewstep.bench.contenders.engine import EngineRacer
from fewstep.bench.contenders.plain import reference_images
from fewstep.bench.lineup import Lineup
from fewstep.bench.loops import LOOPS, loop_images
from fewstep.bench.subjects import Subject
from fewstep.errors import FewstepError
from fewstep.run.backends.parity import BOUNDS

Measure = Callable[[Tensor, Tensor], float]

TOLERANCE = 1e-4  # of the largest value, in float32
# In bfloat16 one value in a thousand may be far off, with torch's own as well, so it is all values that are judged.
TOLERANCES = {"float32": TOLERANCE, "bfloat16": BOUNDS[torch.bfloat16]}
MEASURES = {"float32": "of the largest value", "bfloat16": "over all values"}
SEED = 1
DRAWN_IN_OWN_DTYPE = (DIFFUSERS, CHANNELS_LAST)  # whose loops draw their noise in the dtype of their network


class ParityError(FewstepError):
    """Images that should agree do not, so no speed may be printed."""


@dataclass(frozen=True)
class Agreement:
    """How far a contender's images are from those of the reference in float32.

    Attributes:
        difference: what is judged: in float32 `relative`, in bfloat16 `over_all`.
        allowed: the most that it may be.
        max_abs: the largest difference of a value.
        psnr: 10 log10(range^2 / mean squared difference) in dB, the range being that of the reference; inf for equal.
        bitwise: whether the same request gave the same bits twice, which an engine promises; None for others.
    """

    difference: float
    allowed: float
    max_abs: float
    psnr: float
    bitwise: bool | None = None

    @property
    def holds(self) -> bool:
        """Whether it may be timed: a NaN is within no tolerance."""
        return self.difference <= self.allowed and self.bitwise is not False

    def wrong(self, contender: Contender, case: Case) -> str:
        """What is said where it does not hold."""
        if self.bitwise is False:
            return f"{contender.name} gives other bits for the same request at {case}; no speed is printed"
        return (
            f"{contender.name} and the eager reference differ by {self.difference:.1e} {MEASURES[contender.dtype]} "
            f"(allowed: {self.allowed:.0e}) at {case}; no speed is printed"
        )


def check(lineup: Lineup, case: Case, tolerances: Mapping[str, float] = TOLERANCES) -> dict[Contender, Agreement]:
    """Each contender that takes part, beside the reference: on torch's noise, and an engine on its own as well.

    A baseline that does not agree is in the answer, and must not be timed.

    Raises:
        ParityError: an engine does not agree, or the reference and a loop that people write do not; naming the case and
            the difference.
    """
    reference = Reference(lineup.exact, case)
    _check_loop(reference, tolerances["float32"])
    found = {}
    for racer in lineup.racers:
        racer.prepare(case)
        contender = racer.contender
        if racer.absent(case) or contender.kind == BARE or (contender.kind == EAGER and contender.exact):
            continue
        try:
            agreement = _agreement(racer, case, reference, tolerances[contender.dtype])
        except Absent as why:
            racer.lacks = str(why)
            continue
        if contender.ours and not agreement.holds:
            raise ParityError(agreement.wrong(contender, case))
        found[contender] = agreement
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


def psnr(images: Tensor, reference: Tensor) -> float:
    """10 log10((max b - min b)^2 / mean (a - b)^2) in dB."""
    a, b = images.double().cpu(), reference.double().cpu()
    error = float((a - b).square().mean())
    extent = float(b.max() - b.min())
    return math.inf if error == 0 else 10 * math.log10(extent**2 / error) if extent > 0 and error > 0 else math.nan


@dataclass(frozen=True)
class Reference:
    """The images of the eager reference in float32."""

    subject: Subject
    case: Case

    @cached_property
    def drawn(self) -> Tensor:
        """On torch's noise."""
        return self.drawn_in(torch.float32)

    def drawn_in(self, dtype: torch.dtype) -> Tensor:
        """On torch's noise in a dtype, as diffusers draws it for a network in that."""
        draw = normals(self.subject, self.case, SEED, dtype)
        return reference_images(self.subject, self.case, in_turn(lambda: draw().float()))

    @cached_property
    def seeded(self) -> Tensor:
        """On the engine's noise."""
        return reference_images(self.subject, self.case, seeded(self.subject, self.case, SEED))


def _check_loop(reference: Reference, allowed: float) -> None:
    """The reference beside the loop that papers print, where there is one for this sampler and network."""
    subject, case = reference.subject, reference.case
    loop = LOOPS.get(case.sampler)
    if loop is None or not loop.takes(subject.engine.model):
        return
    images = loop_images(loop, subject, case.steps, case.batch, normals(subject, case, SEED))
    difference = relative(images, reference.drawn)
    if not difference <= allowed:
        raise ParityError(
            f"the eager reference and the loop of {case.sampler} as papers print it differ by {difference:.1e} "
            f"{MEASURES['float32']} (allowed: {allowed:.0e}) at {case}; no speed is printed"
        )


def _agreement(racer: Racer, case: Case, reference: Reference, allowed: float) -> Agreement:
    contender = racer.contender
    measure: Measure = relative if contender.exact else over_all
    images = racer.images(case, SEED)
    own = contender.kind in DRAWN_IN_OWN_DTYPE and not contender.exact
    exact = reference.drawn_in(racer.subject.engine.dtype) if own else reference.drawn
    pairs = [(images, exact)]
    bitwise = None
    if isinstance(racer, EngineRacer):
        seeded_images = racer.own_images(case, SEED)
        bitwise = torch.equal(seeded_images, racer.same_images(case, SEED))
        pairs.append((seeded_images, reference.seeded))
    # Python's max would pass over a NaN
    difference = float(torch.tensor([measure(a, b) for a, b in pairs]).max())
    max_abs = float(torch.tensor([float((a.cpu() - b.cpu()).abs().max()) for a, b in pairs]).max())
    return Agreement(difference, allowed, max_abs, min(psnr(a, b) for a, b in pairs), bitwise)


__all__ = ["TOLERANCE", "TOLERANCES", "Agreement", "ParityError", "check", "over_all", "plan_of", "psnr", "relative"]

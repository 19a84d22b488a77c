"""Who computes an op, and whether what they compute may be timed: asked by `ops.py` and by `pytest benchmarks/`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from op_parity import Errors, Parity
from op_work import Call, Tensors, Work

OURS, DEPENDENT, EAGER, COMPILED, COPY = "ours", "ours, dependent", "eager", "compiled", "copy"
SAME = 20  # calls on a GPU of a contender that must give our bits, where two launches could race


def contenders(work: Work, compiles: bool = True) -> dict[str, Call]:
    """All of a case but the copy."""
    found = {OURS: work.ours, **work.more, EAGER: work.eager}
    if compiles:
        torch.compiler.reset()  # the functions of all cases of an op share their code, and what is compiled for it
        found[COMPILED] = work.eager.compiled()
    return found


def copy_of(moved: int, device: torch.device) -> Call:
    """torch's copy that reads and writes so many bytes together."""
    source = torch.randint(256, (max(moved // 2, 1),), dtype=torch.uint8, device=device)
    return Call(torch.empty_like(source).copy_, {"other": source})


@dataclass(frozen=True)
class Verdict:
    """Of a contender in a case: how far it is from float64, and why it must not be timed, "" if it may be."""

    why_not: str
    errors: Errors | None = None

    @classmethod
    def of(cls, name: str, call: Call, work: Work, parity: Parity) -> "Verdict":
        """Compare it. What draws noise of its own is compared on given noise."""
        own_noise = work.shown is not None and name in (EAGER, COMPILED)
        shown = Call(call.function, work.shown or {}) if own_noise else call
        try:
            errors = parity.errors(work, shown)
            same = name not in work.more or same_bits(work, call)
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0][:100]
            return cls(f"failed: {type(error).__name__}: {first}")
        if why_not := parity.why_not(errors):
            return cls(f"wrong: {why_not}", errors)
        return cls("" if same else f"wrong: its bits are not those of {OURS}", errors)


def same_bits(work: Work, call: Call) -> bool:
    """Whether it gives those of ours, again and again where they could race."""
    (first, *_) = work.ours.arguments.values()
    return all(equal(work, work.ours, call) for _ in range(SAME if first.device.type == "cuda" else 1))


def equal(work: Work, one: Callable[[], Tensors], other: Callable[[], Tensors]) -> bool:
    """Whether two give the same bits from the same start."""
    found = []
    for call in (one, other):
        work.reset()
        found.append([each.clone() for each in call()])
    return all(torch.equal(mine, theirs) for mine, theirs in zip(*found, strict=True))

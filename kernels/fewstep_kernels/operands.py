"""The operands of a step, written once: the schema of the op is made from them, and every implementation takes them."""

from collections.abc import Callable
from typing import NamedTuple, get_type_hints

from torch import Tensor


class StepOperands(NamedTuple):
    """What `denoise_step` reads and writes. B samples, R lanes, K columns, N rows of the longest plan, D past values.

    The formulas are those of `fewstep_kernels.row`.
    """

    x: Tensor  # [B, C, H, W] the state, updated in place
    x_in: Tensor  # [R, C or more, H, W] the next model input; its first C channels are written
    history: Tensor | None  # [D, B, C, H, W] a ring over steps, updated in place
    preview: Tensor | None  # [B, C, H, W] written with x_0
    model_output: Tensor  # [R, C or 2C, H, W]
    row: Tensor  # [B, K] from `begin_step`
    step: Tensor  # [B] int64 from `begin_step`
    seed: Tensor  # [B] int64
    cond_lane: Tensor  # [B] int64
    uncond_lane: Tensor  # [B] int64
    statistics: Tensor | None = None  # [B, 2] from `step_statistics`, where a row rescales or thresholds
    noise: Tensor | None = None  # [N + 1, B, C, H, W] given instead of Philox: initial, then row by row
    gradient: Tensor | None = None  # [B, C, H, W] added to m with weight g
    known: Tensor | None = None  # [B, C, H, W] the known image
    mask: Tensor | None = None  # [B, 1 or C, H, W] 1 where the sample is generated, 0 where it is known
    learned_variance: bool = False
    stochastic: bool = True  # False promises that every s is 0 and no known region is drawn afresh


WRITTEN = ("x", "x_in", "history", "preview")
TYPES = {Tensor: "Tensor", Tensor | None: "Tensor?", bool: "bool"}
HINTS = get_type_hints(StepOperands)
TENSORS = tuple(name for name in StepOperands._fields if HINTS[name] is not bool)


def by_arguments(implementation: Callable[[StepOperands], None]) -> Callable[..., None]:
    """An implementation of the op, called as its schema has it: with the operands one by one."""
    return lambda *arguments, **named: implementation(StepOperands(*arguments, **named))


def schema(name: str) -> str:
    """The schema of an op that takes StepOperands and returns nothing, as torch.library reads it."""
    arguments, defaults = [], StepOperands._field_defaults
    for field in StepOperands._fields:
        kind = TYPES[HINTS[field]]
        if field in WRITTEN:  # Tensor(a!)?: each its own memory, and written
            kind = kind.replace("Tensor", f"Tensor({'abcd'[WRITTEN.index(field)]}!)")
        arguments.append(f"{kind} {field}" + (f"={defaults[field]}" if field in defaults else ""))
    return f"{name}({', '.join(arguments)}) -> ()"

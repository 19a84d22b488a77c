"""What happens to a ticket, told to whoever waits for it."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray
from torch import Tensor

Reason = Literal["invalid", "deadline", "cancelled", "non_finite", "out_of_memory", "worker", "dead"]


@dataclass(frozen=True, eq=False)
class Admitted:
    """It runs from the next step on.

    Attributes:
        member: which of the models of its served name.
        sampler, steps: of its plan; steps are model calls.
        chosen: the steps were chosen by its deadline.
        warnings: what there is to say of such a plan, such as steps that the model was not trained for.
    """

    member: str
    sampler: str
    steps: int
    chosen: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Progress:
    """A step is done.

    Attributes:
        step: how many are, from 1.
        steps: of all.
        preview: uint8 [H, W, C], the estimate of x_0 as a picture, where this step was to have one.
    """

    step: int
    steps: int
    preview: NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class Finished:
    """The image.

    Attributes:
        image: uint8 [H, W, C].
        member, sampler, steps, seed: what made it.
        queue_seconds: before its first step.
        run_seconds: from there to its end.
        log_prob: [steps] log p(x' | x) of each step in nats, NaN where it added no noise; of a trajectory.
        states: [steps + 1, C, H, W] x before each step and at the end; of a trajectory.
    """

    image: NDArray[Any]
    member: str
    sampler: str
    steps: int
    seed: int
    queue_seconds: float
    run_seconds: float
    log_prob: Tensor | None = None
    states: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Failed:
    """There will be no image.

    Attributes:
        reason: of what kind.
        message: in words for whoever asked.
        argument: which of the words is to blame, where one is.
    """

    reason: Reason
    message: str
    argument: str | None = None


Event: TypeAlias = Admitted | Progress | Finished | Failed
"""Admitted, then Progress for every step, then Finished; or Failed at any point. Nothing follows the last two."""

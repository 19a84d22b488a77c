"""How a condition is strengthened: by combining two halves, or inside the network. One small file for each kind.

A kind says the scale, what it writes into a plan, and what it adds to the network's inputs. No other file asks which
kind it is.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from fewstep.checks import only
from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError
from fewstep.request.guidance.embedded import EmbeddedGuidance
from fewstep.request.guidance.free import ClassifierFree

__all__ = ["ClassifierFree", "EmbeddedGuidance", "Guidance", "guidance_from_config"]


class Guidance(Protocol):
    """A kind of guidance."""

    @property
    def default(self) -> float:
        """The scale of a request that names none."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the network takes because of it, beside x, t and the condition."""
        ...

    def scale(self, asked: object) -> float:
        """The scale of one sample; None asks for the default. ArgumentError out of range."""
        ...

    def planned(self, plan: Plan, scale: float, rescale: float) -> Plan:
        """A plan of a sampler as it runs at a scale."""
        ...

    def given(self, plan: Plan, asked: object, rescale: float) -> Plan:
        """A plan that a user hands over, as it runs; the scale they name beside it, if any, takes its own's place.

        Raises:
            ArgumentError: a plan that this guidance cannot run.
        """
        ...

    def condition(self, asked: Sequence[object], condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The condition with what else the network takes, one entry per sample. ArgumentError where it is there."""
        ...

    def recorded(self, condition: Mapping[str, Tensor]) -> list[float] | None:
        """Each sample's scale, where the condition has it; None where the plan does."""
        ...

    def about(self, guidable: bool) -> str:
        """The scales that may be asked for, in words; `guidable`: the model has a null condition."""
        ...


def guidance_from_config(config: object, default: float | None = None) -> Guidance:
    """What a model's `guidance` means: {"min": 1.0, "max": 4.0, "default": 1.5}, a `Guidance`, or None for two halves.

    Args:
        config: the argument.
        default: the scale that the model's defaults name, if any.

    Raises:
        ArgumentError: other fields, a range that is none, or two defaults.
    """
    guidance: Guidance
    if config is None:
        return ClassifierFree(1.0 if default is None else default)
    if isinstance(config, ClassifierFree | EmbeddedGuidance):
        guidance = config
    else:
        given: Any = config
        if isinstance(config, Mapping):
            only("guidance", config, ("min", "max", "default"))
        try:
            guidance = EmbeddedGuidance(**given)
        except TypeError:
            raise ArgumentError("guidance", config, "min, max and default") from None
    if default is not None:
        raise ArgumentError("defaults", {"guidance_scale": default}, "no guidance_scale: `guidance` says it")
    return guidance


def guidance_to_config(guidance: Guidance) -> dict[str, float] | None:
    """What a network has to have for a guidance: its own input, or nothing (None)."""
    return dataclasses.asdict(guidance) if isinstance(guidance, EmbeddedGuidance) else None

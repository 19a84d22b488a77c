"""A sample: what one image is asked to be, in tensors. It knows no user, and belongs to no batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fewstep.diffusion.plan import Plan
from fewstep.run.lanes import lanes_of


@dataclass(frozen=True, eq=False)
class State:
    """Where x stands between two steps.

    Attributes:
        x: [C, H, W] the noisy sample.
        history: [D, C, H, W] youngest first, or None where the plan keeps none.
        index: the row of the plan that comes next.
    """

    x: Tensor
    history: Tensor | None
    index: int


@dataclass(frozen=True, eq=False)
class Sample:
    """One image to be.

    Attributes:
        plan: the rows it takes.
        seed: of the noise that its rows add.
        start: where it begins: noise, an image at strength, or a state that was kept.
        condition: what the network is given beside x and t, each [...].
        null: what takes the place of some of that in the unconditional half, each [...].
        noise: [N + 1, C, H, W] the noise instead of the seed's: initial, then row by row.
        known: [C, H, W] the image that is kept where the mask is 0.
        mask: [1, H, W] 1 where the sample is generated.
    """

    plan: Plan
    seed: int
    start: State
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    null: Mapping[str, Tensor] = field(default_factory=dict)
    noise: Tensor | None = None
    known: Tensor | None = None
    mask: Tensor | None = None

    @property
    def lanes(self) -> int:
        """Rows of the network's batch that it owns."""
        return lanes_of(self.plan)

    @property
    def calls(self) -> int:
        """Model calls from where it begins to its end."""
        return len(self.plan) - self.start.index

    def conditions(self) -> tuple[Mapping[str, Tensor], ...]:
        """What its lanes carry, one mapping for each lane."""
        without = {**self.condition, **{name: self.null[name] for name in self.condition if name in self.null}}
        return {"cond": (self.condition,), "uncond": (without,), "both": (self.condition, without)}[self.plan.halves]

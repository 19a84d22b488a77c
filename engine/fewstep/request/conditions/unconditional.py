"""No condition: a model that takes no labels."""

from dataclasses import dataclass

from torch import Tensor

from fewstep.errors import ArgumentError
from fewstep.request.conditions.labels import Labels


@dataclass(frozen=True)
class Unconditional:
    """The network is told x and t, and what `condition=` may add."""

    @property
    def allowed(self) -> str:
        """What an error says is allowed."""
        return "nothing: this model takes no labels"

    @property
    def names(self) -> tuple[str, ...]:
        """There are no classes."""
        return ()

    @property
    def example(self) -> None:
        """There is no label to give."""
        return None

    def spread(self, samples: int) -> None:
        """There are no labels to give."""
        return

    def rows(self, labels: Labels | None, samples: int) -> Tensor | None:
        """None; ArgumentError where labels are given."""
        if labels is not None:
            raise ArgumentError("labels", labels, self.allowed)
        return None

    def null_rows(self, samples: int) -> Tensor | None:
        """There is nothing to leave away."""
        return None

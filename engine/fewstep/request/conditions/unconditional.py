"""No condition: a model that takes no labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fewstep.request.conditions.words import Rows, Words, by_label_alone

UNREAD: Final = (
    "nothing: this model takes no prompts, and no labels; Engine.from_pipeline of a pipeline of diffusers reads prompts"
)


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
    def inputs(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def guidable(self) -> bool:
        """There is nothing to leave away."""
        return False

    def spread(self, samples: int) -> None:
        """There are no labels to give."""
        return

    def blank(self, samples: int) -> dict[str, Any]:
        """There is nothing to say."""
        return {}

    def rows(self, words: Words, samples: int, guided: bool, by_hand: Sequence[str] = ()) -> Rows:
        """Nothing; ArgumentError where something is said."""
        if by_label_alone(words, by_hand, UNREAD):
            words.only((), self.allowed)
        return Rows()

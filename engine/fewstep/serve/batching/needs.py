"""What a sample needs of a session: those that need the same run together."""

from dataclasses import dataclass
from typing import Final

from fewstep.run.buffers import Schema
from fewstep.run.features import schema
from fewstep.run.sample import Sample

BASE: Final = ("stochastic", "statistics", "preview")
HISTORY: Final = 4  # past values, as many as the longest sampler reads


@dataclass(frozen=True)
class Needs:
    """Of a session.

    Attributes:
        features: by the names of `Engine.session`; the base tier, which most samples are content with, and what else.
        condition: name, shape and dtype of what the network is given beside x and t.
    """

    features: tuple[str, ...]
    condition: Schema

    @property
    def beyond(self) -> tuple[str, ...]:
        """The features that the base tier has not."""
        return tuple(feature for feature in self.features if feature not in BASE)


def needs_of(sample: Sample, *, trajectory: bool = False) -> Needs:
    """What a sample needs.

    Args:
        sample: of any plan; the features that are dear are only there where it needs them.
        trajectory: its log-probabilities are wanted.
    """
    dear = {
        "known": sample.mask is not None,
        "given_noise": sample.noise is not None,
        "learned_variance": sample.plan.learned_variance,
        "log_prob": trajectory,
    }
    return Needs(BASE + tuple(name for name, there in dear.items() if there), schema(sample.condition))

"""What a set of digits scores, beside what real digits score in its place."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fewstep.checks import integer
from fewstep.evaluate.features import DigitClassifier, look
from fewstep.evaluate.frechet import Moments, frechet_distance
from fewstep.evaluate.neighbours import Nearness, nearest
from fewstep.evaluate.precision_recall import Manifold, precision, recall
from fewstep.evaluate.real import SPLITS, Digits, split_halves
from fewstep.evaluate.sliced_wasserstein import sliced_wasserstein

MIN_SAMPLES = 10  # with fewer a covariance says nothing


@dataclass(frozen=True)
class Scores:
    """Numbers of one set; those that compare it with real digits are the mean over the references."""

    frechet: float  # in the classifier's features
    frechet_spread: float  # standard deviation over the references
    precision: float  # in the classifier's features
    recall: float
    sliced_wasserstein: float  # of the pixels, in [-1, 1]
    accuracy: float | None  # share classified as the digit that was asked for; None for a model without labels
    nearest_median: float  # Euclidean distance to the nearest training image, pixels in [-1, 1]
    share_near: float  # nearer to one than 99 % of the held-out digits are


@dataclass(frozen=True)
class Compared:
    """A set of images and what is worked out of it once."""

    pixels: Tensor  # [N, 1024]
    features: Tensor  # [N, 64]

    @cached_property
    def moments(self) -> Moments:
        """Of the features."""
        return Moments.of(self.features)

    @cached_property
    def manifold(self) -> Manifold:
        """Of the features."""
        return Manifold.of(self.features)


class Judge:
    """Scores sets of n digits against real ones.

    The real digits are halved SPLITS times. Samples are compared with one half of each; for the floor, n digits of
    the other half take the samples' place. So both have the same counts, and the bias of finite sets is in both.

    Attributes:
        labels: the n classes to ask a model for, each as often as among real digits.
        floor: what real digits score; accuracy and distances are those of the held-out ones.
    """

    def __init__(self, classifier: DigitClassifier, digits: Digits, n: int) -> None:
        self._classifier = classifier
        everything, held_out = digits.all, digits.held_out
        pixels, seen = everything.images.flatten(1), look(classifier, everything.images)
        splits = [split_halves(digits, seed) for seed in range(SPLITS)]
        integer("n", n, MIN_SAMPLES, len(splits[0].floor), ", at most half of the real digits")
        self._references = [Compared(pixels[half], seen.features[half]) for half in (s.reference for s in splits)]
        self._train = digits.train.images.flatten(1)
        self._unseen, _ = nearest(held_out.images.flatten(1), self._train)

        self.labels: list[int] = everything.labels[splits[0].floor[:n]].tolist()
        right = seen.classes[len(digits.train.labels) :] == held_out.labels
        self.floor = self._scores(
            [Compared(pixels[half], seen.features[half]) for half in (s.floor[:n] for s in splits)],
            accuracy=_share(right),
            distances=self._unseen,
        )

    def score(self, images: Tensor, labels: Sequence[int] | None) -> Scores:
        """The scores of images [n, 1, 32, 32] in [-1, 1], asked to be of `labels` [n]."""
        seen, pixels = look(self._classifier, images), images.flatten(1)
        accuracy = None if labels is None else _share(seen.classes == torch.tensor(labels))
        distances, _ = nearest(pixels, self._train)
        return self._scores([Compared(pixels, seen.features)] * SPLITS, accuracy, distances)

    def _scores(self, sets: Sequence[Compared], accuracy: float | None, distances: Tensor) -> Scores:
        """Of one set for each reference."""
        pairs = list(zip(self._references, sets, strict=True))
        frechet = torch.tensor([frechet_distance(real.moments, other.moments) for real, other in pairs])
        nearness = Nearness.of(distances, self._unseen)
        return Scores(
            frechet=float(frechet.mean()),
            frechet_spread=float(frechet.std()),
            precision=_mean([precision(real.manifold, other.features) for real, other in pairs]),
            recall=_mean([recall(other.manifold, real.features) for real, other in pairs]),
            sliced_wasserstein=_mean([sliced_wasserstein(real.pixels, other.pixels) for real, other in pairs]),
            accuracy=accuracy,
            nearest_median=nearness.median,
            share_near=nearness.share_near,
        )


def _share(right: Tensor) -> float:
    return float(right.to(torch.float64).mean())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

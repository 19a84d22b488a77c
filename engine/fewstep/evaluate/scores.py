"""What a set of images scores, beside what real ones score in its place."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fewstep.checks import integer
from fewstep.evaluate.features import FEATURES, Classifier, look
from fewstep.evaluate.frechet import Moments, frechet_distance
from fewstep.evaluate.neighbours import FEWEST, Nearness, nearest
from fewstep.evaluate.precision_recall import Manifold, precision, recall
from fewstep.evaluate.real import MIN_IMAGES, SPLITS, Real, share_of_each, split_halves
from fewstep.evaluate.sliced_wasserstein import sliced_wasserstein

MIN_SAMPLES = MIN_IMAGES // 2
MAX_REFERENCE = 5000  # real images that samples are compared with
MAX_QUERIES = 2000  # real images whose distance to the others says what is near


@dataclass(frozen=True)
class Scores:
    """Numbers of one set; those that compare it with real images are the mean over the references."""

    frechet: float | None  # in the classifier's features; None for sets of no more images than there are features
    frechet_spread: float | None  # standard deviation over the references
    precision: float  # in the classifier's features
    recall: float
    sliced_wasserstein: float  # of the pixels, in [-1, 1]
    accuracy: (
        float | None
    )  # share classified as what was asked for; None for a model or images without classes, or with one
    nearest_median: float  # Euclidean distance to the nearest image that models were trained on, pixels in [-1, 1]
    share_near: float | None  # nearer to one than 99 % of other real images are; None where these are fewer than 100


@dataclass(frozen=True)
class Compared:
    """A set of images and what is worked out of it once."""

    pixels: Tensor  # [N, C H W]
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
    """Scores sets of n images against real ones.

    The real images are halved SPLITS times. Samples are compared with one half of each; for the floor, n images of
    the other half take the samples' place. So both have the same counts, and the bias of finite sets is in both.

    What is near an image that models were trained on, the images that they have not seen say, or where there are none
    those that they have, each by its distance to the others.

    Attributes:
        labels: the n classes to ask a model for, each as often as among real images; None where these have none.
        floor: what real images score; accuracy and distances are those of the images held out.
        notes: which scores a set of this size cannot have, and why.
    """

    def __init__(self, classifier: Classifier, real: Real, n: int) -> None:
        check_count(n, real)
        self._classifier = classifier
        everything, held_out = real.all, real.held_out
        pixels, seen = everything.images.flatten(1), look(classifier, everything.images)
        splits = [split_halves(real, seed) for seed in range(SPLITS)]
        references = [_bounded(split.reference, everything.labels) for split in splits]
        self._references = [Compared(pixels[half], seen.features[half]) for half in references]
        self._taught = real.taught.images.flatten(1)
        self._others = _distances_of_real(real)
        self._covariances = n > FEATURES and len(references[0]) > FEATURES
        self.notes: list[str] = [] if self._covariances else [_too_few(n, len(everything))]
        if len(self._others) < FEWEST:
            self.notes.append(
                f"no share near: 99 % of {len(self._others)} real images are no number; it needs {FEWEST}"
            )

        first = splits[0].floor[:n]
        self.labels: list[int] | None = None if everything.labels is None else everything.labels[first].tolist()
        self._classes = real.classes or 1
        right = (
            None
            if held_out.labels is None or self._classes == 1
            else seen.classes[len(real.train) :] == held_out.labels
        )
        self.floor = self._scores(
            [Compared(pixels[half], seen.features[half]) for half in (s.floor[:n] for s in splits)],
            accuracy=None if right is None else _share(right),
            distances=self._others,
        )

    def score(self, images: Tensor, labels: Sequence[int] | None) -> Scores:
        """The scores of images [n, C, H, W] in [-1, 1], asked to be of `labels` [n]."""
        seen, pixels = look(self._classifier, images), images.flatten(1)
        known = labels is not None and self._classes > 1
        accuracy = _share(seen.classes == torch.tensor(labels)) if known else None
        distances, _ = nearest(pixels, self._taught)
        return self._scores([Compared(pixels, seen.features)] * SPLITS, accuracy, distances)

    def _scores(self, sets: Sequence[Compared], accuracy: float | None, distances: Tensor) -> Scores:
        """Of one set for each reference."""
        pairs = list(zip(self._references, sets, strict=True))
        frechet = None
        if self._covariances:
            frechet = torch.tensor([frechet_distance(real.moments, other.moments) for real, other in pairs])
        nearness = Nearness.of(distances, self._others)
        return Scores(
            frechet=None if frechet is None else float(frechet.mean()),
            frechet_spread=None if frechet is None else float(frechet.std()),
            precision=_mean([precision(real.manifold, other.features) for real, other in pairs]),
            recall=_mean([recall(other.manifold, real.features) for real, other in pairs]),
            sliced_wasserstein=_mean([sliced_wasserstein(real.pixels, other.pixels) for real, other in pairs]),
            accuracy=accuracy,
            nearest_median=nearness.median,
            share_near=nearness.share_near,
        )


def check_count(n: int, real: Real) -> None:
    """ArgumentError unless n samples can be compared with one half of the images, and n of the other half too."""
    half = (len(real.train) + len(real.held_out)) // 2
    integer("n", n, MIN_SAMPLES, half, f", at most half of the real {'digits' if real.boxed else 'images'}")


def _bounded(half: Tensor, labels: Tensor | None) -> Tensor:
    """The half, or MAX_REFERENCE of it, of each class its share."""
    if len(half) <= MAX_REFERENCE:
        return half
    return half[share_of_each(None if labels is None else labels[half], len(half), MAX_REFERENCE)]


def _distances_of_real(real: Real) -> Tensor:
    """How far other real images are from the nearest that models were trained on."""
    taught = real.taught.images.flatten(1)
    if real.unseen:
        return nearest(real.held_out.images.flatten(1), taught)[0]
    queries = torch.randperm(len(taught), generator=torch.Generator().manual_seed(0))[:MAX_QUERIES]
    return nearest(taught[queries], taught, itself=queries)[0]


def _too_few(n: int, images: int) -> str:
    need = f"more than {FEATURES} samples, and at least {2 * FEATURES + 2} real images"
    return f"no Frechet distance: covariances of {FEATURES} features need {need}; here are {n} and {images:,}"


def _share(right: Tensor) -> float:
    return float(right.to(torch.float64).mean())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

"""The classifier whose penultimate features are where sets of images are compared."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from fewstep.errors import ModelError
from fewstep.fields import unreadable
from fewstep.models.layouts.keys import Keys, Piece
from fewstep.models.net.config import MAX_CLASSES
from fewstep.models.safe_load import fill, open_weights

CLASSES: Final = 10  # of the digits in the box
SHAPE: Final = (1, 32, 32)  # likewise
FEATURES: Final = 64
WIDTHS: Final = (16, 32, 64, 128)
MAX_SIDE: Final = 64  # of what the first convolution sees, to less than twice as many
POOLED: Final = 4  # a side
BUNDLED: Final = Path(__file__).resolve().parent.parent / "bundled/digits/classifier.safetensors"
BATCH: Final = 500


class Classifier(nn.Module):
    """Convolutions that halve the sides, a pooling to 4x4 and two linear layers.

    Two halvings up to 32 pixels a side, three beyond; larger pictures are averaged down first. For the digits these are
    about 90,000 parameters and 4 MFLOP an image. Nothing in it looks at other images of the batch, so features do not
    depend on who is evaluated together.

    Args:
        shape: C, H, W of the images.
        classes: how many it tells apart.
    """

    def __init__(self, shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES) -> None:
        super().__init__()
        channels, *sides = shape
        factor = max(1, max(sides) // MAX_SIDE)
        self.shrink = nn.AvgPool2d((min(factor, sides[0]), min(factor, sides[1]))) if factor > 1 else nn.Identity()
        widths = WIDTHS if max(sides) // factor > 32 else WIDTHS[:3]
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1), nn.SiLU()]
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.SiLU()]
        self.convolutions = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(POOLED))
        self.penultimate = nn.Linear(widths[-1] * POOLED**2, FEATURES)
        self.classify = nn.Linear(FEATURES, classes)

    def features(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] in [-1, 1] -> [B, 64]."""
        result: Tensor = nn.functional.silu(self.before(images))
        return result

    def before(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] in [-1, 1] -> the features before their nonlinearity, [B, 64]."""
        result: Tensor = self.penultimate(self.convolutions(self.shrink(images)).flatten(1))
        return result

    def forward(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] in [-1, 1] -> logits [B, classes]."""
        logits: Tensor = self.classify(nn.functional.dropout(self.features(images), 0.2, self.training))
        return logits


@dataclass(frozen=True)
class Seen:
    """What the classifier makes of a set of images."""

    features: Tensor  # [N, 64] float64
    classes: Tensor  # [N] int64, the most likely class


@torch.inference_mode()
def look(classifier: Classifier, images: Tensor, advance: Callable[[int], None] | None = None) -> Seen:
    """Features and classes of images [N, C, H, W] in [-1, 1], in float32, batch by batch."""
    features, classes = [], []
    for batch in images.to(torch.float32).split(BATCH):
        found = classifier.features(batch)
        features.append(found.to(torch.float64))
        classes.append(classifier.classify(found).argmax(1))
        if advance is not None:
            advance(len(batch))
    return Seen(torch.cat(features), torch.cat(classes))


def load_classifier(
    path: Path = BUNDLED, shape: tuple[int, int, int] = SHAPE, classes: int | None = CLASSES
) -> Classifier:
    """The classifier in a safetensors file, in evaluation mode; the bundled one by default.

    Args:
        shape: C, H, W of the images that it is to look at.
        classes: how many it must tell apart; None leaves it to the file.

    Raises:
        ModelError: a file that is missing, damaged, or not of such a classifier.
    """
    source = open_weights(path)
    head = source.shapes.get("classify.bias", (1,))
    own = head[0] if len(head) == 1 and 1 <= head[0] <= MAX_CLASSES else 1
    if classes is not None and own != classes and "classify.bias" in source.shapes:
        raise ModelError(f"{path}: tells {own} classes apart; allowed: a classifier of the {classes} of the data")
    with torch.device("meta"):
        classifier = Classifier(shape, own if classes is None else classes)
    keys: Keys = {name: (Piece(name, tuple(tensor.shape)),) for name, tensor in classifier.named_parameters()}
    fill(classifier, source, keys)
    return classifier.eval()


def fingerprint(path: Path = BUNDLED) -> str:
    """`digest` of a file."""
    try:
        return digest(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error


def digest(content: bytes) -> str:
    """The first 16 digits of its SHA-256: numbers from different classifiers cannot be compared."""
    return hashlib.sha256(content).hexdigest()[:16]

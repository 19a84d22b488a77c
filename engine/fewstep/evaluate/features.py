"""The digit classifier: its penultimate features are where sets of digits are compared."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from fewstep.errors import ModelError
from fewstep.models.layouts.keys import Keys, Piece
from fewstep.models.safe_load import fill, open_weights

CLASSES: Final = 10
FEATURES: Final = 64
SHAPE: Final = (1, 32, 32)
BUNDLED: Final = Path(__file__).resolve().parent.parent / "bundled/digits/classifier.safetensors"
BATCH: Final = 500


class DigitClassifier(nn.Module):
    """Three convolutions, a pooling and two linear layers: about 90,000 parameters, 4 MFLOP an image.

    Nothing in it looks at other images of the batch, so features do not depend on who is evaluated together.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
        )
        self.penultimate = nn.Linear(64 * 4 * 4, FEATURES)
        self.classify = nn.Linear(FEATURES, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """images [B, 1, 32, 32] in [-1, 1] -> [B, 64]."""
        result: Tensor = nn.functional.silu(self.penultimate(self.convolutions(images).flatten(1)))
        return result

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 1, 32, 32] in [-1, 1] -> logits [B, 10]."""
        logits: Tensor = self.classify(nn.functional.dropout(self.features(images), 0.2, self.training))
        return logits


@dataclass(frozen=True)
class Seen:
    """What the classifier makes of a set of images."""

    features: Tensor  # [N, 64] float64
    classes: Tensor  # [N] int64, the most likely class


@torch.inference_mode()
def look(classifier: DigitClassifier, images: Tensor, advance: Callable[[int], None] | None = None) -> Seen:
    """Features and classes of images [N, 1, 32, 32] in [-1, 1], in float32, batch by batch."""
    features, classes = [], []
    for batch in images.to(torch.float32).split(BATCH):
        found = classifier.features(batch)
        features.append(found.to(torch.float64))
        classes.append(classifier.classify(found).argmax(1))
        if advance is not None:
            advance(len(batch))
    return Seen(torch.cat(features), torch.cat(classes))


def load_classifier(path: Path = BUNDLED) -> DigitClassifier:
    """The classifier in a safetensors file, in evaluation mode; the bundled one by default.

    Raises:
        ModelError: a file that is missing, damaged, or not this classifier's.
    """
    with torch.device("meta"):
        classifier = DigitClassifier()
    keys: Keys = {name: (Piece(name, tuple(tensor.shape)),) for name, tensor in classifier.named_parameters()}
    fill(classifier, open_weights(path), keys)
    return classifier.eval()


def fingerprint(path: Path = BUNDLED) -> str:
    """The first 16 digits of the file's SHA-256: numbers from different classifiers cannot be compared."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error

"""Training the classifier: by `fewstep evaluate` where none is given, or by its --train-classifier alone."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save
from torch import Tensor, nn

from fewstep.errors import ArgumentError, FewstepError
from fewstep.evaluate.features import Classifier, digest, look
from fewstep.evaluate.real import Part, Real
from fewstep.files import AtomicFiles

STEPS: Final = 2400  # as many epochs as they make, 30 of the digits
MAX_EPOCHS: Final = 200
BATCH: Final = 100
PEAK_RATE: Final = 2e-3
SHIFT, TURN, STRETCH = 1 / 16, 12.0, 0.1  # share of a side, degrees and share: the most an image is moved in training
LEAST_SPREAD: Final = 1e-5  # of a feature; below it there is rounding and nothing else
WEIGHTS_FILE, CARD_FILE = "classifier.safetensors", "classifier.json"
COMMAND = "fewstep evaluate --train-classifier"


@dataclass(frozen=True)
class Trained:
    """A trained classifier and how well it does."""

    classifier: Classifier
    accuracy: float | None  # on the images held out; None where there are no classes
    wrong: int | None  # of them
    losses: tuple[float, ...]  # mean cross-entropy of each epoch
    seconds: float
    seed: int
    card: dict[str, object]

    @property
    def content(self) -> bytes:
        """Of classifier.safetensors."""
        return save({name: tensor.detach().contiguous() for name, tensor in self.classifier.state_dict().items()})

    @property
    def fingerprint(self) -> str:
        """As `features.fingerprint` of the file."""
        return digest(self.content)

    def save(self, folder: Path) -> list[Path]:
        """Write classifier.safetensors and its card, classifier.json: both or neither. OutputError if that fails."""
        with AtomicFiles() as files:
            files.open(folder / WEIGHTS_FILE).write(self.content)
            files.open(folder / CARD_FILE).write(json.dumps(self.card, indent=1).encode() + b"\n")
        return [folder / WEIGHTS_FILE, folder / CARD_FILE]


def train_classifier(
    real: Real,
    *,
    epochs: int | None = None,
    seed: int = 0,
    advance: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train on the first part alone, and count the errors on the images held out.

    AdamW on the cross-entropy, its rate a cosine from PEAK_RATE to 0; each image shifted, turned and stretched anew
    each time. On one machine with one number of threads the same seed gives the same weights; torch's own state
    of random numbers is left as it was.

    Without classes, or with one alone, there is nothing to learn: the network keeps the weights it begins with, and its
    features are brought to mean 0 and variance 1 over the first part. Random features tell distributions apart too, if
    less as people do (Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, 2002.09797).
    """
    started = time.perf_counter()
    train, held_out, classes = real.train, real.held_out, real.classes
    per_epoch = math.ceil(len(train) / BATCH)
    epochs = min(MAX_EPOCHS, math.ceil(STEPS / per_epoch)) if epochs is None else epochs
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(real.shape, classes or 1)
        if train.labels is None or classes == 1:
            epochs = 0
            _calibrate(classifier, train.images)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=PEAK_RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs * per_epoch))
        for epoch in range(epochs):
            total = 0.0
            for batch in torch.randperm(len(train)).split(BATCH):
                loss = _loss(classifier, train, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(batch)
            losses.append(total / len(train))
            if not math.isfinite(total):
                raise FewstepError(f"the classifier's loss is not finite in epoch {epoch + 1}")
            if advance is not None:
                advance(epoch + 1, epochs)
    classifier.eval()
    wrong = None if held_out.labels is None or classes == 1 else errors(classifier, held_out)
    accuracy = None if wrong is None else 1 - wrong / len(held_out)
    found: dict[str, object] = {
        "seed": seed, "epochs": epochs, "held_out_accuracy": accuracy, "held_out_errors": wrong,
        "last_loss": losses[-1] if losses else None, "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip
    card = _card(real, classifier, found)
    return Trained(classifier, accuracy, wrong, tuple(losses), time.perf_counter() - started, seed, card)


def _loss(classifier: Classifier, part: Part, batch: Tensor) -> Tensor:
    """Cross-entropy of some images, each moved."""
    return nn.functional.cross_entropy(classifier(moved(part.images[batch])), _labels_of(part)[batch])


def _labels_of(part: Part) -> Tensor:
    if part.labels is None:
        raise ArgumentError("labels", None, "a class for each image")
    return part.labels


@torch.no_grad()
def _calibrate(classifier: Classifier, images: Tensor) -> None:
    """Bring each feature, before its nonlinearity, to mean 0, variance 1 over images [N, C, H, W], if they differ."""
    found = torch.cat([classifier.before(batch) for batch in images.split(BATCH)]).to(torch.float64)
    mean, scale = found.mean(0), found.std(0)
    scale = torch.where(scale > LEAST_SPREAD, scale, 1.0)
    layer = classifier.penultimate
    layer.weight.div_(scale[:, None].to(torch.float32))
    layer.bias.sub_(mean.to(torch.float32)).div_(scale.to(torch.float32))


def errors(classifier: Classifier, part: Part) -> int:
    """How many images of a part get another class than their own."""
    wrong = look(classifier, part.images).classes.ne(_labels_of(part))
    return int(wrong.sum())


def moved(images: Tensor) -> Tensor:
    """images [B, C, H, W] each shifted, turned and stretched by a random amount; what comes in continues the border."""
    count, (height, width) = len(images), images.shape[-2:]
    turn = math.radians(TURN) * (2 * torch.rand(count) - 1)
    scale = 1 + STRETCH * (2 * torch.rand(2, count) - 1)
    shift = 2 * SHIFT * (2 * torch.rand(2, count) - 1)
    # In coordinates from -1 to 1, in which a turn of pictures that are not square shears.
    aspect = height / width
    rows = [
        torch.stack([scale[0] * turn.cos(), -aspect * scale[0] * turn.sin(), shift[0]], dim=1),
        torch.stack([scale[1] * turn.sin() / aspect, scale[1] * turn.cos(), shift[1]], dim=1),
    ]
    grid = nn.functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images + 1, grid, padding_mode="border", align_corners=False) - 1


def _card(real: Real, classifier: Classifier, found: dict[str, object]) -> dict[str, object]:
    boxed = real.boxed
    kept = f"{len(real.train):,} {'digits' if boxed else 'images'} to train, {len(real.held_out):,} held out"
    learnt = (
        "its penultimate features are" if real.classes else "no classes, no training: the features of its start are"
    )
    return {
        "name": "digit classifier" if boxed else f"classifier of {real.name}",
        "description": f"{learnt} where `fewstep evaluate` compares sets of {'digits' if boxed else 'images'}",
        "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "data": f"{'mnist10k.npz' if boxed else real.name}: {kept}",
        "shape": list(real.shape),
        "classes": real.classes,
        "class_names": list(real.names),
        "train_digest": real.digest,
        "held_out": len(real.held_out),
        "held_out_from_models": real.unseen,
        "command": COMMAND,
        **found,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "licence": "Apache-2.0" + ("; the digits: MIT" if boxed else ""),
    }

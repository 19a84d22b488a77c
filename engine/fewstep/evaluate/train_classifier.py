"""Training the digit classifier: `fewstep evaluate --train-classifier`."""

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

from fewstep.evaluate.features import DigitClassifier, look
from fewstep.evaluate.real import Digits, Part
from fewstep.files import AtomicFiles

EPOCHS: Final = 30
BATCH: Final = 100
PEAK_RATE: Final = 2e-3
SHIFT, TURN, STRETCH = 2.0, 12.0, 0.1  # pixels, degrees and share: the most a digit is moved in training
WEIGHTS_FILE, CARD_FILE = "classifier.safetensors", "classifier.json"
COMMAND = "fewstep evaluate --train-classifier"


@dataclass(frozen=True)
class Trained:
    """A trained classifier and how well it does."""

    classifier: DigitClassifier
    accuracy: float  # on the held-out digits
    wrong: int  # of them
    losses: tuple[float, ...]  # mean cross-entropy of each epoch
    seconds: float
    seed: int
    card: dict[str, object]

    def save(self, folder: Path) -> list[Path]:
        """Write classifier.safetensors and its card, classifier.json: both or neither. OutputError if that fails."""
        state = {name: tensor.detach().contiguous() for name, tensor in self.classifier.state_dict().items()}
        with AtomicFiles() as files:
            files.open(folder / WEIGHTS_FILE).write(save(state))
            files.open(folder / CARD_FILE).write(json.dumps(self.card, indent=1).encode() + b"\n")
        return [folder / WEIGHTS_FILE, folder / CARD_FILE]


def train_classifier(
    digits: Digits,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    advance: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train on the training digits alone, and count the errors on those held out.

    AdamW on the cross-entropy, its rate a cosine from PEAK_RATE to 0; each digit shifted, turned and stretched anew
    each time. On one machine with one number of threads the same seed gives the same weights; torch's own state
    of random numbers is left as it was.
    """
    started = time.perf_counter()
    train = digits.train
    steps = epochs * math.ceil(len(train.images) / BATCH)
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = DigitClassifier()
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=PEAK_RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for epoch in range(epochs):
            total = 0.0
            for batch in torch.randperm(len(train.images)).split(BATCH):
                loss = nn.functional.cross_entropy(classifier(moved(train.images[batch])), train.labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(batch)
            losses.append(total / len(train.images))
            if advance is not None:
                advance(epoch + 1, epochs)
    classifier.eval()
    wrong = errors(classifier, digits.held_out)
    seconds = time.perf_counter() - started
    accuracy = 1 - wrong / len(digits.held_out.images)
    card = _card(digits, classifier, accuracy, wrong, losses, epochs, seed, seconds)
    return Trained(classifier, accuracy, wrong, tuple(losses), seconds, seed, card)


def errors(classifier: DigitClassifier, part: Part) -> int:
    """How many digits of a part get another class than their own."""
    return int((look(classifier, part.images).classes != part.labels).sum())


def moved(images: Tensor) -> Tensor:
    """images [B, 1, H, W] each shifted, turned and stretched by a random amount; what comes in is background."""
    count, size = len(images), images.shape[-1]
    turn = math.radians(TURN) * (2 * torch.rand(count) - 1)
    scale = 1 + STRETCH * (2 * torch.rand(2, count) - 1)
    shift = 2 * SHIFT / size * (2 * torch.rand(2, count) - 1)
    rows = [
        torch.stack([scale[0] * turn.cos(), -scale[0] * turn.sin(), shift[0]], dim=1),
        torch.stack([scale[1] * turn.sin(), scale[1] * turn.cos(), shift[1]], dim=1),
    ]
    grid = nn.functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images + 1, grid, align_corners=False) - 1


def _card(
    digits: Digits,
    classifier: DigitClassifier,
    accuracy: float,
    wrong: int,
    losses: list[float],
    epochs: int,
    seed: int,
    seconds: float,
) -> dict[str, object]:
    return {
        "name": "digit classifier",
        "description": "its penultimate features are where `fewstep evaluate` compares sets of digits",
        "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "data": f"mnist10k.npz: {len(digits.train.images):,} digits to train, {len(digits.held_out.images):,} held out",
        "train_digest": digits.digest,
        "command": COMMAND,
        "seed": seed,
        "epochs": epochs,
        "held_out_accuracy": accuracy,
        "held_out_errors": wrong,
        "last_loss": losses[-1] if losses else None,
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "licence": "Apache-2.0; the digits: MIT",
    }

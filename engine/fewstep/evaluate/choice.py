"""Which classifier scores are made with: a given one, the one in the box, one that was kept, or one trained now."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fewstep.errors import ModelError
from fewstep.evaluate.features import Classifier, fingerprint, load_classifier
from fewstep.evaluate.real import Real
from fewstep.evaluate.train_classifier import CARD_FILE, WEIGHTS_FILE, Trained, train_classifier
from fewstep.fields import read_json


@dataclass(frozen=True)
class ChosenClassifier:
    """A classifier, and what it is in words."""

    classifier: Classifier
    fingerprint: str
    words: str
    made: Trained | None = None  # where it was trained now, and is not kept yet


def choose(
    real: Real, given: Path | None, kept: Path | None, advance: Callable[[int, int], None] | None = None
) -> ChosenClassifier:
    """The classifier of these images.

    Args:
        given: a classifier.safetensors to take in any case.
        kept: a folder that may hold one that was trained on these very images by `train_classifier`.
        advance: called with (done, total) epochs, where one is trained.

    Raises:
        ModelError: a file that is no classifier of such images, or whose card says that it is one of other classes.
    """
    if given is not None:
        _check_names(given, real)
        return _read(given, real, str(given))
    if real.boxed:
        return ChosenClassifier(load_classifier(), fingerprint(), "in the box")
    if kept is not None and _is_of(kept, real):
        return _read(kept / WEIGHTS_FILE, real, str(kept / WEIGHTS_FILE))
    made = train_classifier(real, advance=advance)
    return ChosenClassifier(made.classifier, made.fingerprint, _trained_words(made, real), made)


def _read(path: Path, real: Real, words: str) -> ChosenClassifier:
    return ChosenClassifier(load_classifier(path, real.shape, real.classes), fingerprint(path), words)


def _check_names(given: Path, real: Real) -> None:
    """Two sets of as many classes are told apart by their names, which the card beside the file has."""
    card = given.parent / CARD_FILE
    names = read_json(card).get("class_names") if card.is_file() else None
    if names and real.names and names != list(real.names):
        own = ", ".join(map(str, names)) if isinstance(names, list) else str(names)
        raise ModelError(f"{given}: tells apart {own}; the classes of the data are {', '.join(real.names)}")


def _is_of(folder: Path, real: Real) -> bool:
    """Whether the classifier in a folder was trained on these images; a damaged one counts as another."""
    if not (folder / WEIGHTS_FILE).is_file() or not (folder / CARD_FILE).is_file():
        return False
    try:
        card = read_json(folder / CARD_FILE)
        load_classifier(folder / WEIGHTS_FILE, real.shape, real.classes or 1)
    except ModelError:
        return False
    about = {"train_digest": real.digest, "held_out": len(real.held_out), "held_out_from_models": real.unseen}
    return all(card.get(name) == value for name, value in about.items())


def _trained_words(made: Trained, real: Real) -> str:
    if made.wrong is None:
        return f"untrained, as the images have {'one class' if real.classes else 'no classes'}"
    right = len(real.held_out) - made.wrong
    return f"trained on {len(real.train):,} of them; right on {right:,} of {len(real.held_out):,} held out"

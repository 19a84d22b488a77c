"""Images of one's own: how they are parted, the classifier that they get, and every score against plain numpy."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep import Engine, Model, schedules
from fewstep.errors import ArgumentError, FewstepError, ModelError
from fewstep.evaluate import Judge, Real, Settings, choose, evaluate, load_real
from fewstep.evaluate import train_classifier as training
from fewstep.evaluate.features import FEATURES, SHAPE, Classifier, look
from fewstep.evaluate.neighbours import nearest
from fewstep.evaluate.real import first_of_each, load_digits, split_halves
from fewstep.evaluate.scores import check_count
from fewstep.evaluate.sheets import Chosen, sheet
from fewstep.evaluate.train_classifier import errors, moved, train_classifier
from fewstep.models.bundled import BUNDLED
from fewstep.train.data import DIGITS, DIGITS_RECORD, digits, source_of
from support.shapes_case import shapes, shapes_file, shapes_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture(scope="module")
def sixty(folder: Path) -> Real:
    return load_real(str(shapes_file(folder, 60)))


@pytest.fixture(scope="module")
def many(folder: Path) -> Real:
    """Enough for covariances and for one image in a hundred."""
    return load_real(str(shapes_file(folder, 180)))


@pytest.fixture(scope="module")
def untrained() -> Classifier:
    torch.manual_seed(0)
    return Classifier((3, 16, 16), 3).eval()


def test_a_fifth_of_each_class_is_kept_from_the_classifier_and_models_may_have_seen_all(sixty: Real) -> None:
    assert (len(sixty.train), len(sixty.held_out), sixty.shape, sixty.classes) == (48, 12, (3, 16, 16), 3)
    assert sixty.held_out.labels is not None
    assert sixty.held_out.labels.bincount().tolist() == [4, 4, 4]
    assert not sixty.unseen
    assert sixty.taught is sixty.all
    images = (torch.from_numpy(shapes(60)[0]).permute(0, 3, 1, 2).float() / 127.5 - 1).flatten(1)
    assert float(nearest(images, sixty.all.images.flatten(1))[0].max()) == 0  # none is lost


def test_images_that_models_have_not_seen_can_be_named(folder: Path) -> None:
    paths = [str(shapes_file(folder, 60)), str(shapes_file(folder, 30, seed=1))]
    real = load_real(paths[0], held_out=paths[1])
    assert (len(real.train), len(real.held_out), real.unseen) == (60, 30, True)
    assert real.taught is real.train
    for other, message in (
        (shapes_file(folder, 30, side=8), r"held_out: got 8x8x3 with classes; allowed: images like .*16x16x3 with"),
        (shapes_file(folder, 30, labelled=False), "held_out: got 16x16x3 without classes"),
        (paths[0], "held_out: got 60 images that are in data too; allowed: images that the model has not seen"),
    ):
        with pytest.raises(ArgumentError, match=message):
            load_real(paths[0], held_out=str(other))


def test_too_few_images_are_refused_and_pictures_are_brought_to_the_size_of_the_model(folder: Path) -> None:
    with pytest.raises(ArgumentError, match="of 19 images; allowed: at least 20: they are halved"):
        load_real(str(shapes_file(folder, 19)))
    pictures = shapes_folder(folder / "pictures", 21, side=20)
    (pictures / "notes.txt").write_text("not a picture")
    real = load_real(str(pictures))
    assert (real.shape, real.names) == ((3, 20, 20), ("circle", "square", "triangle"))
    assert "notes.txt" in " ".join(real.left_out)
    assert load_real(str(pictures), shape=(3, 16, 16)).shape == (3, 16, 16)


def test_halves_without_classes_share_nothing(folder: Path) -> None:
    real = load_real(str(shapes_file(folder, 61, labelled=False)))
    split = split_halves(real, 0)
    assert sorted([*split.reference.tolist(), *split.floor.tolist()]) == list(range(61))
    assert (len(split.reference), len(split.floor)) == (31, 30)
    with pytest.raises(ArgumentError, match="n: got 31; allowed: an integer from 10 to 30, at most half of the real"):
        check_count(31, real)


def frechet(a: Any, b: Any) -> float:
    """The published formula: the trace of the root is the sum of the roots of the eigenvalues of the product."""
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    roots = np.sqrt(np.maximum(np.linalg.eigvals(cov_a @ cov_b).real, 0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots)


def distances(a: Any, b: Any) -> Any:
    return np.sqrt(np.square(a[:, None] - b[None]).sum(-1))


def covered(points: Any, by: Any, k: int = 3) -> float:
    """The share of points within the ball of one of `by`, whose radius is the distance to its k-th nearest other."""
    radii = np.sort(distances(by, by), axis=1)[:, k]
    return float((distances(points, by) <= radii).any(1).mean())


def sliced(a: Any, b: Any) -> float:
    """Sets of one size: the mean over directions of the mean gap of sorted projections."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(256, a.shape[1], generator=generator, dtype=torch.float64).numpy()
    u = u / np.linalg.norm(u, axis=1, keepdims=True)
    return float(np.abs(np.sort(u @ a.T, axis=1) - np.sort(u @ b.T, axis=1)).mean())


def test_every_score_is_its_formula_in_plain_numpy(many: Real, untrained: Classifier) -> None:
    n = 90
    judge = Judge(untrained, many, n)
    images = (many.all.images[:n] + 0.2 * torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(3))).clamp(
        -1, 1
    )
    labels = [index % 3 for index in range(n)]
    scores = judge.score(images, labels)
    everything, sample = many.all.images, images.flatten(1).double().numpy()
    with torch.no_grad():
        features, own = (untrained.features(each).double().numpy() for each in (everything, images))
        found = untrained(images).argmax(1).tolist()
    references = [split_halves(many, seed).reference for seed in range(5)]
    pixels = everything.flatten(1).double().numpy()
    expected = {
        "frechet": np.mean([frechet(features[half], own) for half in references]),
        "frechet_spread": np.std([frechet(features[half], own) for half in references], ddof=1),
        "precision": np.mean([covered(own, features[half]) for half in references]),
        "recall": np.mean([covered(features[half], own) for half in references]),
        "sliced_wasserstein": np.mean([sliced(pixels[half], sample) for half in references]),
        "accuracy": np.mean([one == other for one, other in zip(found, labels, strict=True)]),
        "nearest_median": np.sort(distances(sample, pixels).min(1))[(n - 1) // 2],
    }
    for name, value in expected.items():
        assert getattr(scores, name) == pytest.approx(float(value), rel=1e-4), name
    apart = distances(pixels, pixels) + np.diag(np.full(len(pixels), np.inf))
    limit = np.quantile(apart.min(1), 0.01)
    assert scores.share_near == pytest.approx(float((distances(sample, pixels).min(1) < limit).mean()))
    assert judge.notes == []


def test_a_set_too_small_for_a_number_has_none_and_says_so(sixty: Real, untrained: Classifier) -> None:
    judge = Judge(untrained, sixty, 30)
    scores = judge.score(sixty.all.images[:30], judge.labels)
    for each in (scores, judge.floor):
        assert (each.frechet, each.frechet_spread, each.share_near) == (None, None, None)
        assert 0 < each.precision <= 1
    assert judge.notes[0].startswith("no Frechet distance: covariances of 64 features need more than 64 samples")
    assert judge.notes[0].endswith("here are 30 and 60")
    assert judge.notes[1].startswith("no share near: 99 % of 60 real images")


def test_no_image_is_its_own_neighbour() -> None:
    points = torch.tensor([[0.0], [1.0], [10.0]])
    found, index = nearest(points[[2, 0]], points, itself=torch.tensor([2, 0]))
    assert (found.tolist(), index.tolist()) == ([9.0, 1.0], [1, 1])


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 8, 8), (3, 16, 16), (3, 33, 20), (1, 64, 64), (3, 70, 130), (1, 600, 3)],
    ids=["one pixel", "small", "shapes", "not square", "three halvings", "averaged down", "a ribbon"],
)  # fmt: skip
def test_there_is_a_classifier_for_every_size(shape: tuple[int, int, int]) -> None:
    classifier = Classifier(shape, 5).eval()
    seen = look(classifier, torch.zeros(2, *shape))
    assert (seen.features.shape, seen.classes.shape) == ((2, FEATURES), (2,))
    assert len([each for each in classifier.modules() if isinstance(each, nn.Conv2d)]) == 3 + (max(shape[1:]) > 32)


@pytest.mark.slow
def test_the_classifier_is_trained_on_the_classes_kept_and_taken_again(
    sixty: Real, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "kept"
    monkeypatch.setattr(training, "MAX_EPOCHS", 120)
    chosen = choose(sixty, None, out)
    assert chosen.made is not None
    assert chosen.made.wrong is not None
    assert chosen.made.wrong <= 4  # of 12, where guessing gets 8 wrong
    assert chosen.words == f"trained on 48 of them; right on {12 - chosen.made.wrong} of 12 held out"
    chosen.made.save(out)
    again = choose(sixty, None, out)
    assert (again.made, again.fingerprint) == (None, chosen.fingerprint)
    assert errors(again.classifier, sixty.held_out) == chosen.made.wrong
    assert choose(sixty, out / "classifier.safetensors", None).fingerprint == chosen.fingerprint
    card = json.loads((out / "classifier.json").read_text())
    assert (card["shape"], card["classes"], card["train_digest"]) == ([3, 16, 16], 3, sixty.digest)
    (out / "classifier.json").write_text(json.dumps(card | {"class_names": ["b", "a", "c"]}))
    with pytest.raises(ModelError, match="tells apart b, a, c; the classes of the data are a, b, c"):
        choose(replace(sixty, names=("a", "b", "c")), out / "classifier.safetensors", None)
    with pytest.raises(ModelError, match="tells 3 classes apart; allowed: a classifier of the 4 of the data"):
        choose(replace(sixty, classes=4), out / "classifier.safetensors", None)
    (out / "classifier.json").write_text(json.dumps(card))
    monkeypatch.setattr(training, "MAX_EPOCHS", 1)
    other = replace(sixty, digest="another", train=first_of_each(sixty.train, 20))
    assert choose(other, None, out).made is not None  # of other images, so it is no use
    (out / "classifier.safetensors").write_bytes(b"damaged")
    assert choose(replace(sixty, train=first_of_each(sixty.train, 20)), None, out).made is not None
    with pytest.raises(ModelError, match=r"classifier\.safetensors"):
        choose(sixty, out / "classifier.safetensors", None)


def test_a_classifier_of_other_classes_is_refused(sixty: Real, folder: Path) -> None:
    two = replace(sixty, classes=4)
    train_classifier(two, epochs=1).save(folder / "four")
    with pytest.raises(ModelError, match=r"tells 4 classes apart"):
        choose(sixty, folder / "four" / "classifier.safetensors", None)


def test_without_classes_features_are_those_of_an_untrained_network(folder: Path) -> None:
    real = load_real(str(shapes_file(folder, 60, labelled=False)))
    made = train_classifier(real)
    assert (made.wrong, made.accuracy, made.losses) == (None, None, ())
    with torch.no_grad():
        before = made.classifier.before(real.train.images)
    assert before.mean(0).abs().max() < 1e-3
    assert (before.std(0) - 1).abs().max() < 1e-3
    assert choose(real, None, None).fingerprint == made.fingerprint  # the same each time
    made.save(folder / "plain")
    assert choose(real, None, folder / "plain").made is None
    judge = Judge(made.classifier, real, 30)
    assert judge.labels is None
    assert judge.floor.accuracy is None


def test_images_that_are_all_the_same_have_scores_that_are_numbers(folder: Path) -> None:
    np.savez(folder / "same.npz", images=np.full((140, 16, 16), 200, dtype=np.uint8))
    real = load_real(str(folder / "same.npz"))
    judge = Judge(choose(real, None, None).classifier, real, 70)
    assert (judge.floor.frechet, judge.floor.sliced_wasserstein) == (pytest.approx(0.0, abs=1e-9), 0.0)
    scores = judge.score(torch.zeros(70, 1, 16, 16), None)
    assert 0 < (scores.frechet or 0) < 1e3
    assert (scores.precision, scores.recall) == (0.0, 0.0)


def test_one_class_alone_is_as_none(folder: Path) -> None:
    images, labels = shapes(60)
    np.savez(folder / "one.npz", images=images, labels=0 * labels)
    real = load_real(str(folder / "one.npz"))
    chosen = choose(real, None, None)
    assert chosen.words == "untrained, as the images have one class"
    judge = Judge(chosen.classifier, real, 30)
    assert judge.labels == [0] * 30
    assert judge.floor.accuracy is judge.score(real.all.images[:30], judge.labels).accuracy is None


def test_classes_that_are_few_or_missing_are_no_trouble(folder: Path) -> None:
    images, _ = shapes(41)
    labels = np.array([0] * 20 + [5] * 20 + [7])
    np.savez(folder / "gaps.npz", images=images, labels=labels)
    real = load_real(str(folder / "gaps.npz"))
    assert real.classes == 8
    judge = Judge(train_classifier(real, epochs=1).classifier, real, 20)
    assert set(judge.labels or ()) <= {0, 5, 7}


def test_moved_pictures_continue_their_border_and_digits_are_moved_as_ever() -> None:
    torch.manual_seed(0)
    flat = torch.full((4, 3, 9, 13), 0.5)
    assert torch.allclose(moved(flat), flat, atol=1e-6)
    drawn = load_digits().train.images[:50]
    assert tuple(drawn.shape[1:]) == SHAPE
    torch.manual_seed(1)
    now = moved(drawn)
    torch.manual_seed(1)
    assert torch.equal(now, moved_with_zeros(drawn))


def moved_with_zeros(images: Tensor) -> Tensor:
    """As digits were moved when the classifier in the box was trained: what comes in is paper."""
    count = len(images)
    turn = np.pi * 12.0 / 180 * (2 * torch.rand(count) - 1)
    scale = 1 + 0.1 * (2 * torch.rand(2, count) - 1)
    shift = 2 * 2.0 / 32 * (2 * torch.rand(2, count) - 1)
    rows = [
        torch.stack([scale[0] * turn.cos(), -scale[0] * turn.sin(), shift[0]], dim=1),
        torch.stack([scale[1] * turn.sin(), scale[1] * turn.cos(), shift[1]], dim=1),
    ]
    grid = nn.functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images + 1, grid, align_corners=False) - 1


def test_a_card_says_what_a_model_was_trained_on() -> None:
    """A user's own folder called digits is not taken for the digits in the box."""
    data = digits()[0]
    assert f"{data.name}, {len(data):,} images, {data.licence}" == DIGITS_RECORD  # as `fewstep train` writes it
    for member in ("teacher", "1-step"):
        notes = json.loads((BUNDLED / "digits" / member / "fewstep.json").read_text())["notes"]
        assert source_of(None, notes) == DIGITS
        assert source_of("mine.npz", notes) == "mine.npz"
    with pytest.raises(
        ArgumentError,
        match=r"trained on: 'digits', an \.npz file, or a folder of pictures; its card says: digits, 600 images$",
    ):
        source_of(None, ["data: digits, 600 images", "time: long"])
    with pytest.raises(ArgumentError, match=r"trained on: 'digits', an \.npz file, or a folder of pictures$"):
        source_of(None, ["time: long"])


class Copies(nn.Module):
    """Takes its input for the image."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x


def test_samples_are_counted_to_the_last_and_shown_in_their_order_where_no_labels_are_asked_for(
    sixty: Real, untrained: Classifier
) -> None:
    model = Model(Copies(), schedule=schedules.linear(), shape=(3, 16, 16), prediction="x_0")
    engine, told = Engine(model, device="cpu", max_batch=8), list[tuple[int, int]]()
    found = evaluate(
        engine, untrained, sixty, Settings(n=20, steps=[1, 2]), lambda done, total: told.append((done, total))
    )
    samples = engine.sample(20, seeds=0, steps=1)
    assert found.sheets["samples-1.png"] == sheet(samples, Chosen(range(20), 10))
    one_step, two_steps = [8, 16, 20], [28, 36, 44, 52, 56, 60]  # batches of 8, 8 and 4
    assert told == [(done, 60) for done in one_step + two_steps]


class Breaks(nn.Module):
    """Not finite for one sample at its last, least noisy step."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        answer = torch.zeros_like(x)
        answer[0] = torch.where(t[0] < 600, torch.nan, 0.0)
        return answer


def test_a_sample_that_is_not_finite_is_named_with_its_steps(sixty: Real, untrained: Classifier) -> None:
    model = Model(Breaks(), schedule=schedules.linear(), shape=(3, 16, 16), prediction="x_0")
    engine = Engine(model, device="cpu", max_batch=8)
    with pytest.raises(FewstepError, match=r"^at 2 steps: samples 0, 8 \(seeds 40, 48\): the images are not finite"):
        evaluate(engine, untrained, sixty, Settings(n=10, steps=[1, 2], seed=40))

"""The classifier in the box, the halves of the real digits, and what sets score beside them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep.errors import ArgumentError, ModelError
from fewstep.evaluate.features import BUNDLED, FEATURES, Classifier, load_classifier, look
from fewstep.evaluate.neighbours import NEAR
from fewstep.evaluate.real import Real, first_of_each, load_digits, split_halves, spread_out
from fewstep.evaluate.scores import Judge
from fewstep.evaluate.train_classifier import errors, moved, train_classifier


@pytest.fixture(scope="module")
def digits() -> Real:
    return load_digits()


@pytest.fixture(scope="module")
def few(digits: Real) -> Real:
    """500 digits, in the proportions of all."""
    return replace(digits, train=first_of_each(digits.train, 400), held_out=first_of_each(digits.held_out, 100))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier()


@pytest.fixture(scope="module")
def judge(classifier: Classifier, few: Real) -> Judge:
    return Judge(classifier, few, 200)


def test_the_classifier_in_the_box_knows_digits_that_it_has_not_seen(classifier: Classifier, digits: Real) -> None:
    card = json.loads(BUNDLED.with_suffix(".json").read_text())
    wrong = errors(classifier, digits.held_out)
    assert wrong <= 0.02 * len(digits.held_out.labels)
    assert abs(wrong - card["held_out_errors"]) <= 1  # another machine rounds differently
    assert card["train_digest"] == digits.digest  # trained on these and no others


def test_features_do_not_depend_on_who_else_is_looked_at(classifier: Classifier, few: Real) -> None:
    together = look(classifier, few.train.images[:20])
    alone = look(classifier, few.train.images[7:8])
    assert together.features.shape == (20, FEATURES)
    assert together.features.dtype == torch.float64
    assert torch.allclose(together.features[7:8], alone.features, atol=1e-4)


@pytest.mark.parametrize("change", ["missing", "shape", "unknown"])
def test_a_file_of_another_model_is_refused(tmp_path: Path, change: str) -> None:
    state = load_file(BUNDLED)
    if change == "missing":
        del state["classify.bias"]
    elif change == "shape":
        state["classify.bias"] = torch.zeros(11)
    else:
        state["extra"] = torch.zeros(1)
    save_file(state, tmp_path / "classifier.safetensors")
    with pytest.raises(ModelError, match=r"classifier\.safetensors"):
        load_classifier(tmp_path / "classifier.safetensors")


@pytest.mark.slow
def test_training_improves_the_loss_and_repeats_itself_to_the_bit(few: Real) -> None:
    before = torch.get_rng_state()
    first, again = (train_classifier(few, epochs=12, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.losses == again.losses
    assert first.losses[-1] < 0.75 * first.losses[0]
    assert first.accuracy > 0.5
    for name, tensor in first.classifier.state_dict().items():
        assert torch.equal(tensor, again.classifier.state_dict()[name])
    assert train_classifier(few, epochs=1, seed=4).losses[0] != first.losses[0]


def test_a_trained_classifier_is_read_back_as_it_was(few: Real, tmp_path: Path) -> None:
    trained = train_classifier(few, epochs=1)
    paths = trained.save(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths)
    same = load_classifier(tmp_path / "new" / "classifier.safetensors")
    assert torch.equal(same(few.train.images[:5]), trained.classifier(few.train.images[:5]))


def test_moved_digits_stay_digits_on_paper(few: Real, classifier: Classifier) -> None:
    torch.manual_seed(0)
    images = moved(few.train.images)
    assert images.shape == few.train.images.shape
    assert float(images.min()) >= -1
    assert float(images.max()) <= 1
    assert float((images[:, :, 0, 0] + 1).abs().max()) == 0.0  # what comes in is paper
    assert float((look(classifier, images).classes == few.train.labels).to(torch.float64).mean()) > 0.97


def test_halves_share_nothing_and_hold_the_same(digits: Real) -> None:
    labels = digits.all.labels
    for seed in (0, 1):
        split = split_halves(digits, seed)
        assert sorted([*split.reference.tolist(), *split.floor.tolist()]) == list(range(len(labels)))
        assert len(split.reference) == len(split.floor) == 5000
        classes = [labels[half].bincount(minlength=10) for half in (split.reference, split.floor)]
        assert int((classes[0] - classes[1]).abs().max()) <= 2
        held_out = [int((half >= 8000).sum()) for half in (split.reference, split.floor)]
        assert abs(held_out[0] - held_out[1]) <= 10
    assert not torch.equal(split_halves(digits, 0).reference, split_halves(digits, 1).reference)


def test_the_first_of_a_half_have_its_classes(digits: Real) -> None:
    floor = split_halves(digits, 0).floor
    share = digits.all.labels.bincount(minlength=10) / 10_000
    for n in (100, 500, 2000):
        counts = digits.all.labels[floor[:n]].bincount(minlength=10)
        assert float((counts - n * share).abs().max()) <= 3


def test_spreading_out_is_a_permutation() -> None:
    groups = torch.tensor([0] * 60 + [3] * 30 + [5] * 10)
    order = spread_out(groups, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(100))
    assert groups[order[:50]].bincount(minlength=6).tolist() == pytest.approx([30, 0, 0, 15, 0, 5], abs=1)


def test_real_digits_score_as_real_digits(judge: Judge, few: Real) -> None:
    """The floor is what a perfect model would score: other real digits do about as well."""
    floor = judge.floor
    assert floor.share_near == pytest.approx(NEAR, abs=0.01)
    assert floor.accuracy is not None
    assert floor.accuracy > 0.95
    split = split_halves(few, 7)
    images, labels = few.all.images[split.floor[:200]], few.all.labels[split.floor[:200]]
    scores = judge.score(images, labels.tolist())
    assert 0.3 < scores.frechet / floor.frechet < 1.5
    assert scores.precision > floor.precision - 0.1
    assert scores.accuracy == pytest.approx(1.0, abs=0.05)
    assert scores.nearest_median == 0.0  # most are training digits, which is what a copy looks like
    assert scores.share_near > 0.5


def test_what_is_worse_scores_worse(judge: Judge, few: Real) -> None:
    split = split_halves(few, 0)
    images, labels = few.all.images[split.floor[:200]], few.all.labels[split.floor[:200]].tolist()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    scores = [judge.score((images + scale * noise).clamp(-1, 1), labels) for scale in (0.0, 0.3, 1.0)]
    for name in ("frechet", "sliced_wasserstein"):
        values = [getattr(score, name) for score in scores]
        assert values[0] < values[1] < values[2]
    for name in ("accuracy", "precision"):
        values = [getattr(score, name) for score in scores]
        assert values[0] + 0.05 > values[1] > 1.5 * values[2]


def test_wrong_labels_cost_accuracy_and_nothing_else(judge: Judge, few: Real) -> None:
    split = split_halves(few, 0)
    images, labels = few.all.images[split.floor[:200]], few.all.labels[split.floor[:200]]
    right, wrong = judge.score(images, labels.tolist()), judge.score(images, ((labels + 1) % 10).tolist())
    assert (right.accuracy or 0) > 0.9
    assert (wrong.accuracy or 0) < 0.1
    assert right.frechet == wrong.frechet
    assert judge.score(images, None).accuracy is None


def test_one_class_alone_is_precise_and_covers_little(judge: Judge, few: Real) -> None:
    ones = few.all.images[few.all.labels == 1]
    scores = judge.score(ones.repeat(5, 1, 1, 1)[:200], None)
    assert scores.recall < 0.5 * judge.floor.recall
    assert scores.frechet > 5 * judge.floor.frechet


def test_scores_do_not_depend_on_the_order_of_the_samples(judge: Judge, few: Real) -> None:
    images, labels = few.all.images[:200], few.all.labels[:200]
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    a, b = judge.score(images, labels.tolist()), judge.score(images[order], labels[order].tolist())
    assert (a.accuracy, a.precision, a.recall) == (b.accuracy, b.precision, b.recall)
    assert a.frechet == pytest.approx(b.frechet, rel=1e-6)
    assert a.sliced_wasserstein == pytest.approx(b.sliced_wasserstein, rel=1e-9)


def test_more_samples_than_half_of_the_digits_are_refused(classifier: Classifier, few: Real) -> None:
    with pytest.raises(ArgumentError, match="n: got 251; allowed: an integer from 10 to 250"):
        Judge(classifier, few, 251)

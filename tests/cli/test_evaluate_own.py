"""`fewstep evaluate` of somebody's own images: 60 coloured shapes, a tiny teacher and its student."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from fewstep import Engine
from fewstep.errors import OutputError
from fewstep.evaluate import plots, train_classifier
from fewstep.evaluate.report import Report
from support.cli_case import CONFIG, Run, names, tiny_model
from support.shapes_case import shapes_file, shapes_folder

CLASSES = {"kind": "classes", "count": 3, "null": 3}
COLOUR = replace(CONFIG, in_channels=3, out_channels=3, num_classes=4)
SCHEDULE = {"name": "cosine", "num_timesteps": 20}
NOTES = ("data: shapes, 60 images", "time: short")
ABOUT: dict[str, Any] = {"shape": (3, 16, 16), "schedule": SCHEDULE, "prediction": "v", "notes": NOTES}
QUICK = ("--n", "30", "--threads", "1")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_classifier, "MAX_EPOCHS", 3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes_folder(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = {"sampler": "ddpm", "steps": 20, "clip": 1.0}
    folder = tmp_path_factory.mktemp("models") / "teacher"
    return tiny_model(folder, COLOUR, name="teacher", labels=CLASSES, plan=plan, **ABOUT)


@pytest.fixture(scope="module")
def student(teacher: Path) -> Path:
    """Takes the guidance scale as an input, is for one step or two, and has other weights than its teacher."""
    folder = teacher.parent / "student"
    config = replace(COLOUR, guidance_range=(1.0, 2.0))
    fields = {
        "labels": CLASSES,
        "plan": {"sampler": "ddim", "steps": 2, "clip": 1.0},
        "guidance": {"min": 1.0, "max": 2.0, "default": 1.5},
        "trained": {"sampler": "ddim", "steps": [1, 2]},
    }
    tiny_model(folder, config, **fields, **ABOUT)
    state = load_file(folder / "model.safetensors")
    state["conv_out.bias"] += 0.1
    save_file(state, folder / "model.safetensors")
    return folder


def strict(text: str) -> Any:
    """JSON as others read it: without NaN and Infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.slow
def test_a_student_beside_its_teacher_on_images_of_ones_own(
    run: Run, data: Path, teacher: Path, student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("evaluate", student, "--teacher", teacher, "--teacher-steps", 4, "--data", data, *QUICK, "--seed", 5)
    done = run(*words, "--out", out)
    assert (done.code, done.err) == (0, "")
    files = ["classifier.json", "classifier.safetensors", "evaluate.json", "quality.png", "samples-1.png"]
    files += ["samples-2.png", "teacher-student-1.png", "teacher-student-2.png"]
    assert names(out) == files
    for word in (
        "compared with shapes: 60 images, 3 classes: circle, square, triangle",
        "trained on 48 of them",
        "no Frechet distance",
    ):
        assert word in done.out
    for word in ("teacher, ddim", "beside teacher at 4 steps of ddim", "guidance scale 1.5", *files):
        assert word in " ".join(done.out.split())
    result = strict((out / "evaluate.json").read_text())
    assert [row["steps"] for row in result["rows"]] == [1, 2]  # what the student is for
    assert result["teacher"]["steps"] == 4
    assert result["real"]["frechet"] is None
    for row in (*result["rows"], result["teacher"]):
        assert row["frechet"] is row["frechet_ratio"] is None
        assert row["sliced_wasserstein"] > 0
        assert 0 <= row["accuracy"] <= 1
    assert result["notes"][0] in done.out.replace("\n", " ")

    labels = labels_asked(data)
    taught = Engine.from_pretrained(teacher, device="cpu")
    plan = taught.plan(4, "ddim", guidance_scale=1.5, clip=1.0)
    theirs = taught.sample(labels=labels, seeds=5, plan=plan).numpy().astype(float)
    for row in result["rows"]:
        ours = Engine.from_pretrained(student, device="cpu").sample(labels=labels, seeds=5, steps=row["steps"]).numpy()
        expected = 10 * np.log10(255**2 / np.square(ours - theirs).reshape(30, -1).mean(1))
        assert row["psnr"] == pytest.approx(expected.tolist(), abs=0.05)  # batches round differently
        assert row["psnr_median"] == pytest.approx(float(np.median(expected)), abs=0.05)
    with Image.open(out / "teacher-student-2.png") as page:
        first = labels.index(0)
        assert page.size == (9 * 66 - 2, 3 * 138 - 8)  # three columns a class; three pairs of rows
        above = np.asarray(page)[2:64:4, 2:64:4].astype(int)
        assert np.abs(above - theirs[first]).max() <= 1

    kept = (out / "classifier.safetensors").stat().st_mtime_ns
    again = strict(run(*words, "--out", out, "--json").out)
    assert (out / "classifier.safetensors").stat().st_mtime_ns == kept
    assert again["settings"]["classifier"] == result["settings"]["classifier"]
    assert again["settings"]["classifier_is"].endswith("classifier.safetensors")
    elsewhere = strict(run(*words, "--classifier", out / "classifier.safetensors", "--json").out)
    assert elsewhere["rows"][1]["precision"] == result["rows"][1]["precision"]


def labels_asked(data: Path) -> list[int]:
    """The classes of the first thirty of the half that makes the floor."""
    from fewstep.evaluate.real import load_real, split_halves

    real = load_real(str(data))
    assert real.all.labels is not None
    labels: list[int] = real.all.labels[split_halves(real, 0).floor[:30]].tolist()
    return labels


@pytest.mark.slow
def test_a_model_is_its_own_equal_and_json_has_no_infinity(run: Run, data: Path, teacher: Path) -> None:
    arguments = ("--teacher", teacher, "--teacher-steps", 2, "--steps", "1,2", "--sampler", "ddim", "--data", data)
    result = strict(run("evaluate", teacher, *arguments, *QUICK, "--json").out)
    one, two = result["rows"]
    assert (one["psnr_equal"], two["psnr_equal"]) == (0, 30)
    assert (two["psnr_median"], two["psnr"]) == (None, [None] * 30)
    assert 0 < one["psnr_median"] < 60


@pytest.mark.slow
def test_images_and_models_without_classes(run: Run, tmp_path: Path) -> None:
    plain = tiny_model(tmp_path / "plain", replace(COLOUR, num_classes=None), **ABOUT)
    source = shapes_file(tmp_path, 60, labelled=False)
    unseen = shapes_file(tmp_path, 40, labelled=False, seed=1)
    arguments = ("--data", source, "--held-out", unseen, "--steps", 1, *QUICK, "--bpd", "--bpd-images", 2)
    done = run("evaluate", plain, *arguments, "--json")
    result = strict(done.out)
    assert result["rows"][0]["accuracy"] is result["real"]["accuracy"] is None
    assert result["settings"]["classifier_is"] == "untrained, as the images have no classes"
    assert (result["data"]["held_out"], result["data"]["held_out_from_models"]) == (40, True)
    page = run("evaluate", plain, "--data", source, "--steps", 1, *QUICK, "--bpd", "--bpd-images", 2).out
    assert "on 2 images that the model may have been trained on" in page


@pytest.mark.slow
def test_the_bound_may_be_asked_of_all_that_are_held_out(run: Run, tmp_path: Path) -> None:
    plain = tiny_model(tmp_path / "plain", replace(COLOUR, num_classes=None), **ABOUT)
    source = shapes_file(tmp_path, 60, labelled=False)
    unseen = shapes_file(tmp_path, 2100, labelled=False, seed=1)
    words = ("evaluate", plain, "--data", source, "--held-out", unseen, "--steps", 1, *QUICK, "--bpd")
    asked = run(*words, "--bpd-images", 2101).error
    assert asked == "--bpd-images: got 2101; allowed: an integer from 2 to 2100"


@pytest.mark.slow
def test_more_images_have_a_frechet_distance(run: Run, teacher: Path, tmp_path: Path) -> None:
    source = shapes_file(tmp_path, 140)
    done = run("evaluate", teacher, "--data", source, "--steps", 1, "--threads", 1, "--out", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    result = strict((tmp_path / "out" / "evaluate.json").read_text())
    assert result["settings"]["n"] == 70  # half of them
    assert result["rows"][0]["frechet_ratio"] == result["rows"][0]["frechet"] / result["real"]["frechet"]
    assert result["notes"] == []


@pytest.mark.slow
def test_what_a_model_is_compared_with_must_be_said(run: Run, teacher: Path, data: Path, tmp_path: Path) -> None:
    quick = (*QUICK, "--out", tmp_path / "out")
    missing = run("evaluate", teacher, *quick).error
    assert missing == (
        "data: got None; allowed: the images that the model was trained on: 'digits', an .npz file, or a folder of "
        "pictures; its card says: shapes, 60 images"
    )
    digits = run("evaluate", teacher, "--data", "digits", *quick).error
    assert digits == "data: got digits of shape [1, 32, 32]; allowed: the model's [3, 16, 16]"
    unlabelled = run("evaluate", teacher, "--data", shapes_file(tmp_path, 60, labelled=False), *quick).error
    assert unlabelled.endswith("with no classes; allowed: the model's 3")
    named = {**CLASSES, "names": ["circle", "oblong", "triangle"]}
    other = tiny_model(tmp_path / "other", COLOUR, labels=named, **ABOUT)
    names_differ = run("evaluate", other, "--data", data, *quick).error
    assert names_differ == (
        "data: got shapes with classes circle, square, triangle; allowed: the model's, circle, oblong, triangle"
    )
    many = run("evaluate", teacher, "--data", data, *quick[2:], "--n", 31).error
    assert many == "n: got 31; allowed: an integer from 10 to 30, at most half of the real images"
    small = tiny_model(tmp_path / "small", COLOUR, labels=CLASSES, **(ABOUT | {"shape": (3, 8, 8)}))
    unlike = run("evaluate", teacher, "--teacher", small, "--data", data, *quick).error
    assert unlike == "data: got shapes of shape [3, 16, 16]; allowed: the teacher's [3, 8, 8]"
    nullless = {"kind": "classes", "count": 3, "null": None}
    alone = tiny_model(tmp_path / "alone", replace(COLOUR, num_classes=3), name="alone", labels=nullless, **ABOUT)
    allowed = "got 2.0; allowed: 1: alone has no null label to guide from"
    for words in ((alone,), (teacher, "--teacher", alone)):
        assert run("evaluate", *words, "--guidance-scale", 2, "--data", data, *quick).error.endswith(allowed)
    plain = tiny_model(tmp_path / "plain", replace(COLOUR, num_classes=None), **ABOUT)
    labelled = run("evaluate", plain, "--teacher", alone, "--data", data, *quick).error
    assert labelled.endswith("allowed: for a model without labels, one that needs none")
    steps = run("evaluate", teacher, "--teacher", teacher, "--teacher-steps", 21, "--data", data, *quick).error
    assert "steps: got 21; allowed: an integer from 1 to 20" in steps
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--json"]], ids=["page", "json"])
def test_scores_are_not_lost_where_they_cannot_be_written(
    run: Run, teacher: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    def full(*_: object) -> list[Path]:
        raise OutputError("out/evaluate.json: cannot be written: no space left on device")

    monkeypatch.setattr(Report, "save", full)
    words = ("evaluate", teacher, "--data", data, "--n", 10, "--steps", 1, "--threads", 1, "--out", tmp_path / "out")
    done = run(*words, *more)
    assert done.code == 2
    assert done.err == "error: out/evaluate.json: cannot be written: no space left on device\n"
    if more:
        result = strict(done.out)
        assert result["rows"][0]["precision"] is not None
        assert result["error"]["message"].endswith("no space left on device")
    else:
        assert "precision" in done.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "code", "line"),
    [
        (ValueError("no room for a legend"), 1, "unexpected ValueError: no room for a legend; "),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["an error", "Ctrl-C"],
)
def test_scores_are_not_lost_where_they_cannot_be_drawn(
    run: Run,
    teacher: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    code: int,
    line: str,
) -> None:
    def draw(*_: object) -> bytes:
        raise failure

    monkeypatch.setattr(plots, "quality_picture", draw)
    out = tmp_path / "out"
    words = ("evaluate", teacher, "--data", data, "--n", 10, "--steps", 1, "--threads", 1, "--out", out, "--json")
    done = run(*words)
    assert done.code == code
    assert done.err.startswith(f"error: {line}")
    result = strict(done.out)
    assert result["rows"][0]["precision"] is not None
    assert (result["error"]["type"], result["error"]["exit_code"]) == (type(failure).__name__, code)
    assert [Path(path).name for path in result["files"]] == ["classifier.safetensors", "classifier.json"]
    assert names(out) == ["classifier.json", "classifier.safetensors"]


@pytest.mark.slow
def test_a_sample_that_is_not_finite_is_named(run: Run, data: Path, teacher: Path) -> None:
    broken = teacher.parent / "broken"
    tiny_model(broken, COLOUR, labels=CLASSES, plan={"sampler": "ddim", "steps": 2}, **ABOUT)
    state = load_file(broken / "model.safetensors")
    state["conv_out.weight"] += 3e38
    save_file(state, broken / "model.safetensors")
    failed = run("evaluate", broken, "--data", data, "--n", 10, "--steps", "1", "--threads", 1)
    assert failed.error.startswith("at 1 step: samples 0, 1, 2, 3, 4, 5, 6, 7, ... (seeds 0, 1, ")


@pytest.mark.slow
def test_the_classifier_of_ones_own_images_can_be_trained_alone(run: Run, data: Path, tmp_path: Path) -> None:
    words = ("evaluate", "--train-classifier", "--data", data, "--size", 8, "--out", tmp_path, "--threads", 1, "--json")
    card = strict(run(*words).out)
    assert (card["shape"], card["classes"], card["epochs"]) == ([3, 8, 8], 3, 3)
    assert names(tmp_path) == ["classifier.json", "classifier.safetensors"]

"""`fewstep evaluate`, on a tiny model that knows nothing and on few digits."""

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fewstep.evaluate import real, train_classifier
from fewstep.evaluate.features import fingerprint
from fewstep.evaluate.real import first_of_each
from support.cli_case import CONFIG, Run, names, tiny_model

CLASSES = {"kind": "classes", "count": 10, "null": 10}
SCHEDULE = {"name": "cosine", "num_timesteps": 20}
DIGITS = ("--data", "digits", "--threads", "1")
SMALL = ("--n", "20", "--steps", "1,2", *DIGITS)
TIMES = ("seconds", "ms_per_image")


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    digits = real.load_digits()
    few = replace(digits, train=first_of_each(digits.train, 160), held_out=first_of_each(digits.held_out, 40))
    monkeypatch.setattr(real, "load_digits", lambda: few)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = replace(CONFIG, num_classes=11)
    folder = tmp_path_factory.mktemp("models") / "conditional"
    return tiny_model(folder, config, labels=CLASSES, shape=(1, 32, 32), schedule=SCHEDULE)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No labels, and a learned variance."""
    plan = {"sampler": "ddpm", "steps": 4, "variance": "learned_range"}
    folder = tmp_path_factory.mktemp("models") / "learned"
    return tiny_model(folder, replace(CONFIG, out_channels=2), plan=plan, shape=(1, 32, 32), schedule=SCHEDULE)


def timeless(result: dict[str, Any]) -> dict[str, Any]:
    rows = [{name: value for name, value in row.items() if name not in TIMES} for row in result["rows"]]
    return {name: value for name, value in result.items() if name not in ("machine", "files")} | {"rows": rows}


@pytest.mark.slow
def test_a_table_a_plot_sheets_and_the_numbers(run: Run, conditional: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--n", 70, "--guidance-scale", 2, "--bpd", "--bpd-images", 4)
    done = run("evaluate", conditional, *SMALL, *options, "--out", out)
    assert (done.code, done.err) == (0, "")
    assert names(out) == ["bound.png", "evaluate.json", "quality.png", "samples-1.png", "samples-2.png"]
    for word in ("tiny", "Frechet", "accuracy", "recall", "real", "fixed_large", "L_T", "guidance scale 2", "cosine"):
        assert word in done.out
    result = json.loads((out / "evaluate.json").read_text())
    assert [row["steps"] for row in result["rows"]] == [1, 2]
    assert result["data"]["name"] == "digits"
    for row in result["rows"]:
        assert row["frechet_ratio"] == pytest.approx(row["frechet"] / result["real"]["frechet"])
        assert row["frechet_ratio"] > 10  # it has learned nothing
        assert row["accuracy"] < 0.5 < result["real"]["accuracy"]
        assert row["ms_per_image"] > 0
    for bound in result["bits_per_dimension"]:
        assert bound["total"] == pytest.approx(sum(bound["terms"]))
        assert len(bound["terms"]) == 21
        assert bound["L_T"] < 1e-3
    assert Image.open(out / "quality.png").size[0] > 800
    assert Image.open(out / "samples-1.png").width == 10 * 34 - 2


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 200])
def test_the_page_fits_the_terminal(run: Run, conditional: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    page = run("evaluate", conditional, *SMALL).out
    assert max(map(len, page.splitlines())) <= columns
    for heading in ("accuracy", "precision", "sliced W", "ms/image"):
        assert heading in page


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_another_one_others(run: Run, conditional: Path) -> None:
    first, batched, other = (
        json.loads(run("evaluate", conditional, *SMALL, "--json", *more).out)
        for more in ([], ["--batch", "7"], ["--seed", "100"])
    )
    assert timeless(first) == timeless(json.loads(run("evaluate", conditional, *SMALL, "--json").out))
    for a, b in zip(first["rows"], batched["rows"], strict=True):
        assert a["sliced_wasserstein"] == pytest.approx(b["sliced_wasserstein"], rel=1e-3)
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.05)
    assert timeless(other)["rows"] != timeless(first)["rows"]
    assert first["real"] == other["real"]


@pytest.mark.slow
def test_a_model_without_labels_has_no_accuracy_and_a_learned_variance_its_bound(run: Run, learned: Path) -> None:
    result = json.loads(run("evaluate", learned, *SMALL, "--bpd", "--bpd-images", 2, "--json").out)
    assert [row["accuracy"] for row in result["rows"]] == [None, None]
    assert [row["sampler"] for row in result["rows"]] == ["ddpm", "ddpm"]
    variances = [bound["variance"] for bound in result["bits_per_dimension"]]
    assert variances == ["fixed_small", "fixed_large", "optimal", "learned_range"]
    assert "bits" not in run("evaluate", learned, *SMALL).out


@pytest.mark.slow
def test_an_earlier_result_is_drawn_beside(run: Run, conditional: Path, learned: Path, tmp_path: Path) -> None:
    run("evaluate", learned, *SMALL, "--out", tmp_path / "a")
    beside = ("--beside", tmp_path / "a/evaluate.json")
    assert run("evaluate", conditional, *SMALL, "--out", tmp_path / "b", *beside).code == 0
    assert run("evaluate", conditional, *SMALL, "--out", tmp_path / "c").code == 0
    assert (tmp_path / "b/quality.png").read_bytes() != (tmp_path / "c/quality.png").read_bytes()
    fewer = run("evaluate", conditional, "--n", 10, "--steps", 1, *DIGITS, *beside)
    assert "allowed: results with n 10, classifier " in fewer.error
    (tmp_path / "wrong.json").write_text('{"rows": [{"steps": 1}]}')
    failed = run("evaluate", conditional, *SMALL, "--beside", tmp_path / "wrong.json")
    assert failed.error.endswith("wrong.json: is no result of fewstep evaluate")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "9"], "n: got 9; allowed: an integer from 10 to 5000"),
        (["--n", "6000"], "n: got 6000; allowed: an integer from 10 to 5000"),
        (
            ["--n", "101", "--steps", "1"],
            "n: got 101; allowed: an integer from 10 to 100, at most half of the real digits",
        ),
        (["--steps", "0"], "steps: got 0; allowed: an integer from 1 to 100000"),
        (["--steps", "1,two"], "steps: got 'two'; allowed: numbers like"),
        (["--steps", "21"], "steps: got 21; allowed: an integer from 1 to 20"),
        (["--sampler", "dim"], "did you mean 'ddim'?"),
        (["--seed", "-1"], "seed: got -1; allowed: an integer from 0"),
        (["--batch", "0"], "batch: got 0; allowed: an integer from 1 to 1024"),
        (["--bpd", "--bpd-images", "1"], "--bpd-images: got 1; allowed: an integer from 2 to 40"),
        (["--bpd-images", "4"], "--bpd-images: got 4; allowed: nothing without --bpd"),
        (["--dtype", "int8"], "dtype: got 'int8'; allowed: float32"),
        (["--device", "tpu"], "device: got 'tpu'; allowed: cpu"),
        (["--beside", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--classifier", "nowhere.safetensors"], "nowhere.safetensors: cannot be read"),
        (["--train-classifier"], "model: got "),
        (["--bpd", "--bpd-images", "41"], "got 41; allowed: an integer from 2 to 40"),
        (["--teacher-steps", "3"], "got 3; allowed: nothing without --teacher"),
        (["--held-out", "more"], "got 'more'; allowed: nothing beside the digits"),
        (["--size", "16"], "got 16; allowed: 32 for the digits"),
        (["--teacher", "nowhere"], "nowhere: no such folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_in_one_line(
    run: Run, conditional: Path, arguments: list[str], message: str
) -> None:
    small = SMALL if not {"--n", "--steps"} & {*arguments} else DIGITS
    failed = run("evaluate", conditional, *small, *arguments)
    assert message in failed.error
    assert failed.code == 2


@pytest.mark.slow
def test_a_model_of_something_else_is_refused(run: Run, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other", CONFIG)
    found = run("evaluate", other, *SMALL).error
    assert found == "data: got digits of shape [1, 32, 32]; allowed: the model's [1, 16, 16]"
    labels = {"kind": "classes", "count": 3, "null": None}
    letters = tiny_model(tmp_path / "letters", replace(CONFIG, num_classes=3), labels=labels, shape=(1, 32, 32))
    assert "data: got digits with 10 classes; allowed: the model's 3" in run("evaluate", letters, *SMALL).error
    assert "model: got None" in run("evaluate", *SMALL).error
    assert "holds no model" in run("evaluate", tmp_path, *SMALL).error


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_sampled(
    run: Run, conditional: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in run("evaluate", conditional, *SMALL, "--out", tmp_path / "file").error


@pytest.mark.slow
def test_the_classifier_is_trained_by_the_command(
    run: Run, tmp_path: Path, conditional: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = functools.partial(train_classifier.train_classifier, epochs=1)
    monkeypatch.setattr(train_classifier, "train_classifier", once)
    out = tmp_path / "classifier"
    result = json.loads(run("evaluate", "--train-classifier", "--out", out, "--threads", 1, "--json").out)
    assert names(out) == ["classifier.json", "classifier.safetensors"]
    assert result["epochs"] == 1
    used = run("evaluate", conditional, *SMALL, "--classifier", out / "classifier.safetensors", "--json")
    assert json.loads(used.out)["settings"]["classifier"] == fingerprint(out / "classifier.safetensors")
    assert "out: got None" in run("evaluate", "--train-classifier").error

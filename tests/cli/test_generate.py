"""The command line when all is well: what it prints and what it writes."""

import json
import logging
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fewstep
from fewstep.cli.shared import progress
from fewstep.results import read_parameters
from support.cli_case import Run, names, pixels


def test_a_sheet_and_single_pictures(run: Run, heights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "terrain.png"
    ran = run(
        *("generate", heights, "--labels", "5:100:16", "--steps", 1, "--seed", 0),
        *("--columns", 4, "--out", out),
    )
    assert ran.code == 0
    assert ran.err == ""
    first, *facts = ran.out.splitlines()
    assert first == str(out)
    told = {line[2:15].strip(): line[15:] for line in facts}
    assert told.keys() == {"images", "sampler", "model calls", "time", "seeds"}
    assert told["images"] == f"16 of 16x16, also {tmp_path / 'out' / 'terrain-000.png'} to terrain-015.png"
    assert told["sampler"] == "ddim, 1 step"
    assert told["model calls"] == "1 by torch"
    assert re.fullmatch(r"\S+ ms an image, \S+ s in all", told["time"])
    assert told["seeds"] == "0 to 15"
    assert names(out.parent) == sorted(["terrain.png", *(f"terrain-{index:03d}.png" for index in range(16))])
    assert Image.open(out).size == (4 * 18 - 2, 4 * 18 - 2)
    parameters = read_parameters(out.parent / "terrain-001.png")
    assert parameters["seed"] == "1"
    assert float(parameters["label"]) == pytest.approx(5 + 95 / 15)
    assert parameters["model"] == str(heights)
    assert parameters["dtype"] == "float32"


def test_json_is_one_object_with_all_that_was_made(run: Run, colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    ran = run("generate", colours, "--labels", "3,7", "--seeds", "4,9", "--guidance-scale", 2, "-o", out, "--json")
    assert ran.code == 0
    assert ran.err == ""
    answer = json.loads(ran.out)
    assert answer.pop("seconds") > 0
    assert answer.pop("ms_per_image") > 0
    assert answer.pop("ready_seconds") >= 0
    assert answer == {
        "model": str(colours),
        "image": None,
        "mask": None,
        "strength": None,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "dtype": "float32",
        "backend": "torch",
        "out": str(out),
        "images": [
            {"path": str(tmp_path / "out-000.png"), "seed": 4, "label": 3.0},
            {"path": str(tmp_path / "out-001.png"), "seed": 9, "label": 7.0},
        ],
        "shape": [3, 16, 16],
        "sampler": "ddim",
        "steps": 2,
        "guidance_scale": 2.0,
        "model_calls": 2,
        "fewstep": fewstep.__version__,
    }


@pytest.mark.parametrize(
    ("arguments", "seeds", "labels"),
    [
        (["--labels", "5"], None, ["5"]),
        (["--labels", "5", "--seed", "7"], ["7"], ["5"]),
        (["--labels", "5", "--seed", "7", "--n", "3"], ["7", "8", "9"], ["5"] * 3),
        (["--labels", "5,6.5", "--seeds", "7"], ["7", "7"], ["5", "6.5"]),
        (["--labels", "5", "--seeds", "0:4:3"], ["0", "2", "4"], ["5"] * 3),
        (["--labels", "5", "--seeds", str(2**64 - 1)], [str(2**64 - 1)], ["5"]),
    ],
    ids=["seeds at random", "one", "counting", "one seed for all", "one label for all", "the last seed"],
)
def test_who_gets_which_seed_and_label(
    run: Run, heights: Path, tmp_path: Path, arguments: list[str], seeds: list[str] | None, labels: list[str]
) -> None:
    assert run("generate", heights, *arguments, "--out", tmp_path / "out.png").code == 0
    singles = sorted(tmp_path.glob("out-*.png")) or [tmp_path / "out.png"]
    found = [read_parameters(path) for path in singles]
    assert [each["label"] for each in found] == labels
    if seeds is not None:
        assert [each["seed"] for each in found] == seeds


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--colormap", "terrain"],
        ["--sampler", "ddpm", "--steps", "3"],
        ["--image", "start.png", "--strength", "0.3"],
        ["--image", "start.png", "--mask", "mask.png", "--dtype", "float64"],
    ],
    ids=["the model's plan", "colours", "another sampler", "from an image", "inpainting"],
)
def test_the_command_that_info_shows_makes_the_picture_again(
    run: Run, heights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").save("start.png")
    Image.radial_gradient("L").save("mask.png")
    arguments = ["--labels", "5:100:3", "--seed", 11, "--columns", 1, *more]
    assert run("generate", heights, *arguments, "-o", "a.png").code == 0
    for picture in ("a-001.png", "a.png"):
        ran = run("info", picture, "--json")
        program, *again = shlex.split(json.loads(ran.out)["again"])
        assert program == "fewstep"
        assert run(*again, "-o", "again.png", "--no-singles").code == 0
        before, after = pixels(tmp_path / picture), pixels(tmp_path / "again.png")
        assert before.shape == after.shape
        assert before.std() > 1
        assert abs(before - after).max() <= 1  # the U-Net rounds a little differently in another batch


def test_an_image_start_takes_a_picture_of_any_size(run: Run, colours: Path, tmp_path: Path) -> None:
    wide = Image.new("RGB", (80, 40), "black")
    wide.paste("red", (20, 0, 60, 40))
    wide.save(tmp_path / "wide.jpg", quality=95)
    ran = run(
        *("generate", colours, "--labels", 3, "--image", tmp_path / "wide.jpg", "--strength", 0.01),
        *("--steps", 1, "--out", tmp_path / "out.png"),
    )
    assert ran.code == 0, ran.err
    middle = pixels(tmp_path / "out.png").mean(axis=(0, 1))
    assert middle[0] > 180
    assert middle[1:].max() < 80
    found = read_parameters(tmp_path / "out.png")
    assert found["image"] == str(tmp_path / "wide.jpg")
    assert found["strength"] == "0.01"


def test_what_is_black_in_the_mask_is_kept(run: Run, heights: Path, tmp_path: Path) -> None:
    shades = np.linspace(0, 255, 16 * 16).round().astype(np.uint8).reshape(16, 16)
    Image.fromarray(shades).save(tmp_path / "image.png")
    half = np.zeros((16, 16), dtype=np.uint8)
    half[:, 8:] = 255
    Image.fromarray(half).save(tmp_path / "mask.png")
    ran = run(
        *("generate", heights, "--labels", 50, "--seed", 1, "--out", tmp_path / "out.png"),
        *("--image", tmp_path / "image.png", "--mask", tmp_path / "mask.png"),
    )
    assert ran.code == 0, ran.err
    made = pixels(tmp_path / "out.png")
    assert abs(made - shades)[:, :8].max() <= 1
    assert abs(made - shades)[:, 8:].max() > 20


def test_numbers_can_be_saved_instead(run: Run, heights: Path, tmp_path: Path) -> None:
    ran = run("generate", heights, "--labels", "1,100", "--out", tmp_path / "out.npy", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["images"][0]["path"] is None
    assert names(tmp_path) == ["out.npy"]
    assert np.load(tmp_path / "out.npy").shape == (2, 1, 16, 16)


@pytest.mark.parametrize("quiet", [[], ["--quiet"], ["--json"]])
def test_progress_goes_to_a_terminal_and_never_to_stdout(
    run: Run, heights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: list[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    ran = run("generate", heights, "--labels", "1:9:4", "--out", tmp_path / "out.png", *quiet)
    assert ran.code == 0
    assert ("4 images" in ran.err) == (not quiet)
    assert "4 images" not in ran.out
    assert "\x1b" not in ran.out


def test_what_takes_long_and_is_no_step_is_told_beside_the_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logger = logging.getLogger("fewstep")
    with progress("4 images", quiet=False) as advance:
        logger.info("openvino: converting %s", "UNet\n")
    assert advance is not None
    assert "openvino: converting UNet" in capsys.readouterr().err
    assert (logger.level, logger.handlers) == (logging.NOTSET, [])


def test_progress_counts_every_sample_of_a_large_request(
    run: Run, heights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    @contextmanager
    def recorded(description: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: seen.append((done, total))

    monkeypatch.setattr("fewstep.cli.generate.progress", recorded)
    assert run("generate", heights, "--labels", 5, "--n", 20, "--out", tmp_path / "out.png").code == 0
    assert [total for _, total in seen] == [40] * len(seen)
    done = [done for done, _ in seen]
    assert done == sorted(set(done))
    assert done[-1] == 40


@pytest.mark.parametrize(
    ("model", "arguments", "labels"),
    [
        ("colours", ["--n", "12"], [*range(10), 0, 1]),
        ("colours", [], [0]),
        ("colours", ["--seeds", "5,6,7"], [0, 1, 2]),
        ("colours", ["--n", "2", "--labels", "none"], [None, None]),
        ("heights", ["--n", "4"], [1, 34, 67, 100]),
        ("heights", [], [50.5]),
    ],
    ids=["classes", "one class", "seeds", "no class", "numbers", "one number"],
)
def test_labels_that_nobody_names_are_spread_over_what_there_is(
    run: Run, request: pytest.FixtureRequest, tmp_path: Path, model: str, arguments: list[str], labels: list[object]
) -> None:
    command = ("generate", request.getfixturevalue(model), *arguments, "--out", tmp_path / "out.png")
    made = json.loads(run(*command, "--json").out)
    assert [image["label"] for image in made["images"]] == labels
    ran = run(*command)
    told = [line for line in ran.out.splitlines() if "for want of --labels" in line]
    assert len(told) == (None not in labels)
    if told:
        assert told[0].split()[1:2] == [f"{labels[0]:g}" + (":" if len(labels) == 1 else ",")]


def test_a_picture_of_no_class_is_made_again_as_one(
    run: Run, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("generate", colours, "--labels", "none", "--seed", 3, "-o", "a.png").code == 0
    again = json.loads(run("info", "a.png", "--json").out)["again"]
    assert run(*shlex.split(again)[1:], "-o", "b.png").code == 0
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()


@pytest.mark.parametrize("model", ["digits", "digits/1-step", "digits/2-step", "digits/4-step", "digits/8-step"])
def test_every_model_in_the_box_draws_without_being_told_what(run: Run, tmp_path: Path, model: str) -> None:
    ran = run("generate", model, "--n", 2, "--out", tmp_path / "out.png", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert [image["label"] for image in json.loads(ran.out)["images"]] == [0, 1]

"""The command line: what it prints, what it writes, and how it fails."""

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fewstep
from fewstep.cli import main
from fewstep.cli.shared import emit_fields, numbers, whole_numbers
from fewstep.engine import Engine
from fewstep.errors import ArgumentError
from fewstep.models.config import UNetConfig
from fewstep.models.load import save_model
from fewstep.models.unet import UNet
from fewstep.results import read_parameters
from fewstep.spec import ModelSpec

CONFIG = UNetConfig(
    in_channels=1,
    out_channels=1,
    channels=(8, 16),
    layers=1,
    down_attention=(False, True),
    up_attention=(False, True),
    down=("conv",),
    up=("conv",),
    groups=4,
    mid_attention_groups=4,
)
SPEC = ModelSpec(
    name="tiny",
    family="adm",
    unet=CONFIG,
    shape=(1, 16, 16),
    schedule={"name": "linear", "num_timesteps": 1000},
    prediction="eps",
    plan={"sampler": "ddim", "steps": 2, "clip": 1.0},
    licence="MIT",
)


@dataclass
class Ran:
    """One call of the command line."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line a failure is allowed."""
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("error: ")
        return self.err.removeprefix("error: ").rstrip("\n")


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FEWSTEP_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Ran:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


def tiny_model(folder: Path, config: UNetConfig, **fields: Any) -> Path:
    torch.manual_seed(0)
    save_model(folder, UNet(config), replace(SPEC, unet=config, **fields))
    return folder


@pytest.fixture(scope="session")
def heights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One channel, a continuous label from 1 to 100."""
    labels = {"kind": "continuous", "min": 1.0, "max": 100.0}
    config = replace(CONFIG, label_range=(1.0, 100.0))
    return tiny_model(tmp_path_factory.mktemp("models") / "heights", config, labels=labels)


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three channels, ten classes and a null class."""
    labels = {"kind": "classes", "count": 10, "null": 10}
    config = replace(CONFIG, in_channels=3, out_channels=3, num_classes=11)
    folder = tmp_path_factory.mktemp("models") / "colours"
    return tiny_model(folder, config, labels=labels, shape=(3, 16, 16))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path)).astype(int)


def fails_with(number: int) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


# generate


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
    assert told["model calls"] == "1"
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
    assert answer == {
        "model": str(colours),
        "image": None,
        "mask": None,
        "strength": None,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "dtype": "float32",
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


# failures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "500"], "labels: got 500; allowed: numbers from 1 to 100"),
        (["--labels", "3,x"], "labels: got 'x'; allowed: numbers like 3,7 or a range .* like 5:100:16"),
        (["--labels", "1:2"], "labels: got '1:2'; allowed: numbers like"),
        (["--labels", "nan"], "labels: got 'nan'; allowed: numbers like"),
        ([], "labels: got None; allowed: one per sample, numbers from 1 to 100"),
        (["--labels", "5", "--steps", "0"], "steps: got 0; allowed: an integer from 1"),
        (["--labels", "5", "--steps", "many"], "Invalid value for '--steps': .*integer"),
        (["--labels", "5", "--sampler", "ddimm"], "sampler: got 'ddimm'; allowed: ddpm, .*; did you mean 'ddim'"),
        (["--labels", "5", "--seeds", "1,two"], "seeds: got 'two'; allowed: "),
        (["--labels", "5", "--seeds", "-1"], "seeds: got -1; allowed: whole numbers from 0"),
        (["--labels", "5", "--seeds", "0.5"], "seeds: got 0.5; allowed: whole numbers from 0"),
        (["--labels", "5", "--seed", "1", "--seeds", "1"], "seed: got 1; allowed: either --seed or --seeds"),
        (["--labels", "5", "--seed", "-1"], r"seed: got -1; allowed: an integer from 0 to 2\^64 - 1"),
        (["--labels", "5,6", "--seeds", "1,2,3"], "labels: got 2 values; allowed: one for all, or one for each of 3"),
        (["--labels", "5", "--n", "0"], "n: got 0; allowed: an integer from 1"),
        (["--labels", "5,6", "--n", "3"], "labels: got 2 values; allowed: one for all, or one for each of 3"),
        (["--labels", "1:9:99999999999"], "labels: got '1:9:99999999999'; allowed: "),
        (["--labels", "5", "--columns", "0"], "columns: got 0; allowed: an integer from 1 up"),
        (["--labels", "5", "--colormap", "terain"], "colormap: got 'terain'; allowed: .*did you mean terrain"),
        (["--labels", "5", "--device", "gpu"], "device: got 'gpu'; allowed: cpu"),
        (["--labels", "5", "--dtype", "int8"], "dtype: got 'int8'; allowed: float32 or float16"),
        (["--labels", "5", "--threads", "0"], "threads: got 0; allowed: an integer from 1"),
        (["--labels", "5", "--guidance-scale", "3"], r"guidance_scale: got 3(\.0)?; allowed: 1"),
        (["--labels", "5", "--strength", "0.5"], "strength: got 0.5; allowed: only together with --image"),
        (["--labels", "5", "--mask", "m.png"], "mask: got 'm.png'; allowed: only together with --image"),
        (["--labels", "5", "--image", "no.png", "--strength", "1"], "image: got 'no.png'; .*; there is no such file"),
        (["--lables", "5"], r"No such option: --lables .*--labels.* \(see fewstep generate --help\)"),
    ],
    ids=lambda value: " ".join(value)[:40] or "no labels" if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_one_line_and_writes_nothing(
    run: Run, heights: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    ran = run("generate", heights, *arguments, "--out", tmp_path / "new" / "out.png")
    assert re.match(message, ran.error)
    assert ran.code == 2
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["genrate"], "No such command 'genrate'.*'generate'"),
        (["generate"], "Missing argument 'MODEL'"),
        (["generate", "no/such/model", "--labels", "5"], "no/such/model: no such folder"),
        (["generate", "model", "-o", "out.gif"], "out: got 'out.gif'; allowed: a file name that ends in .png or .npy"),
        (["info", "no/such/model"], "no/such/model: no such folder"),
        (["info", "no/such.png"], "no/such.png: cannot be read as a PNG: No such file or directory"),
        (["convert", "landscape"], "model: got 'landscape'; allowed: terrain"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run(*arguments)
    assert re.match(message, ran.error)
    assert ran.code == 2
    assert names(tmp_path) == []


def test_json_says_a_failure_too(run: Run, heights: Path, tmp_path: Path) -> None:
    ran = run("generate", heights, "--labels", "500", "--out", tmp_path / "out.png", "--json")
    assert ran.code == 2
    assert ran.err.startswith("error: labels: got 500")
    message = "labels: got 500; allowed: numbers from 1 to 100"
    error = {"type": "ArgumentError", "message": message, "exit_code": 2, "argument": "labels"}
    assert json.loads(ran.out) == {"error": error}


@pytest.mark.parametrize("command", ["generate", "info"])
def test_a_damaged_model_is_one_line(run: Run, heights: Path, tmp_path: Path, command: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "fewstep.json").write_bytes((heights / "fewstep.json").read_bytes())
    (model / "model.safetensors").write_bytes((heights / "model.safetensors").read_bytes()[:-100])
    more = ["--labels", "5", "--out", tmp_path / "out.png"] if command == "generate" else []
    ran = run(command, model, *more)
    assert "model.safetensors" in ran.error
    assert ran.code == 2
    assert names(tmp_path) == ["fewstep.json", "model", "model.safetensors"]


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(run: Run, heights: Path, tmp_path: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(tmp_path / "bomb.png")
    image = ["--image", tmp_path / "bomb.png", "--strength", 0.5]
    ran = run("generate", heights, "--labels", 5, *image, "--out", tmp_path / "out.png")
    assert re.match(r"image: got .*bomb\.png of 10000x10000 pixels; allowed: .* at most \d+ pixels", ran.error)
    assert names(tmp_path) == ["bomb.png"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_truncated_picture_is_one_line(run: Run, heights: Path, tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole.{suffix}"
    Image.effect_noise((64, 64), 50).convert("RGB").save(whole)
    part = tmp_path / f"part.{suffix}"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    image = ["--image", part, "--strength", 0.5]
    ran = run("generate", heights, "--labels", 5, *image, "--out", tmp_path / "out.png")
    assert re.match(r"image: got .*part.*; allowed: a PNG, JPEG or WebP file", ran.error)
    assert ran.code == 2
    assert not (tmp_path / "out.png").exists()


def test_a_colormap_for_a_model_of_colours_is_told_before_sampling(
    run: Run, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "sample", lambda *_, **__: pytest.fail("sampled"))
    ran = run("generate", colours, "--labels", 1, "--colormap", "terrain", "--out", tmp_path / "out.png")
    assert ran.error == "colormap: got 'terrain'; allowed: gray: the images have 3 channels, a colormap is for 1"
    assert ran.code == 2


def test_weights_that_overflow_are_one_line_and_no_black_picture(
    run: Run, heights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.from_pretrained(heights)
    torch.nn.init.constant_(next(engine.module.parameters()), float("inf"))
    monkeypatch.setattr(Engine, "from_pretrained", lambda *_, **__: engine)
    ran = run("generate", heights, "--labels", "5,6", "--seed", 3, "--out", tmp_path / "out.png")
    assert ran.error.startswith("sample 0 (seed 3): the image is not finite")
    assert ran.code == 2
    assert names(tmp_path) == []


def test_an_impossible_place_is_told_before_the_model_is_loaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    monkeypatch.setattr(Engine, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    ran = run("generate", "model", "--labels", 5, "--out", tmp_path / "file" / "out.png")
    assert ran.error == f"{tmp_path / 'file' / 'out.png'}: cannot be written: not a directory"
    assert ran.code == 2
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("owner", "call", "number", "reason"),
    [
        (Path, "open", errno.EROFS, "read-only file system"),
        (Path, "mkdir", errno.EACCES, "permission denied"),
        (os, "fsync", errno.ENOSPC, "no space left on device"),
        (Path, "replace", errno.EPERM, "operation not permitted"),
    ],
    ids=["read-only file system", "folder of another user", "full disk", "file of another user"],
)
def test_a_picture_that_cannot_be_written_leaves_nothing(
    run: Run,
    heights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    call: str,
    number: int,
    reason: str,
) -> None:
    engine = Engine.from_pretrained(heights)
    monkeypatch.setattr(Engine, "from_pretrained", lambda *_, **__: engine)
    with monkeypatch.context() as broken:
        broken.setattr(owner, call, fails_with(number))
        ran = run("generate", heights, "--labels", "5,6", "--out", tmp_path / "new" / "out.png")
    assert ran.error == f"{tmp_path / 'new' / 'out.png'}: cannot be written: {reason}"
    assert ran.code == 2
    assert names(tmp_path) == []


def test_the_disk_behind_stdout_may_be_full_and_its_reader_may_go() -> None:
    command = [sys.executable, "-m", "fewstep.cli", "info"]
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {"PYTHONPATH": paths}
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    assert ran.stderr == b"error: stdout: cannot be written: no space left on device\n"
    assert ran.returncode == 2
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert ran.stderr == b""
    assert ran.returncode == 1


@pytest.mark.parametrize("moment", ["sampling", "writing"])
def test_ctrl_c_ends_with_130_and_leaves_nothing(
    run: Run, heights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    target = (Engine, "sample") if moment == "sampling" else (os, "fsync")
    monkeypatch.setattr(*target, interrupt)
    ran = run("generate", heights, "--labels", "5,6", "--out", tmp_path / "new" / "out.png")
    assert ran.error == "interrupted"
    assert ran.code == 130
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (RuntimeError("first\nsecond"), "unexpected RuntimeError: first second; re-run with FEWSTEP_TRACEBACK=1"),
        (OSError(errno.EIO, "Input/output error", "disk"), "disk: Input/output error; re-run with FEWSTEP_TRACE"),
        (torch.OutOfMemoryError("CUDA ..."), "out of memory; fewer samples at once"),
    ],
    ids=["a defect", "the system", "memory"],
)
def test_an_unexpected_failure_is_one_line_and_shows_its_traceback_on_request(
    run: Run,
    heights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(Engine, "sample", fail)
    arguments = ["generate", heights, "--labels", "5", "--out", tmp_path / "out.png"]
    ran = run(*arguments)
    assert ran.error.startswith(message)
    assert ran.code == 1
    monkeypatch.setenv("FEWSTEP_TRACEBACK", "1")
    ran = run(*arguments)
    assert ran.code == 1
    assert "Traceback (most recent call last)" in ran.err
    assert names(tmp_path) == []


# info, convert, help


def test_info_tells_versions_devices_and_why_each_fallback(run: Run) -> None:
    ran = run("info")
    assert ran.code == 0
    assert ran.err == ""
    told = json.loads(run("info", "--json").out)
    assert told["fewstep"] == fewstep.__version__
    assert told["torch"] == torch.__version__
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("cuda_extension", "attention", "triton_kernels"):
        assert told[name]["why"]
        assert f"{told[name]['value']}: {told[name]['why']}" in ran.out
    if not torch.cuda.is_available():
        assert told["cuda"]["value"] == "none"


def test_info_of_a_model_checks_and_describes_it(run: Run, heights: Path) -> None:
    ran = run("info", heights)
    assert ran.code == 0
    assert ran.err == ""
    told = json.loads(run("info", heights, "--json").out)
    weights = UNet(replace(CONFIG, label_range=(1.0, 100.0))).parameters()
    assert told["parameters"] == sum(each.numel() for each in weights)
    assert told["family"] == "adm"
    assert told["shape"] == [1, 16, 16]
    assert told["labels"] == "numbers from 1 to 100"
    assert told["defaults"] == SPEC.plan
    assert told["plan"] == Engine.from_pretrained(heights).plan().describe()
    assert told["licence"] == "MIT"
    for line in told["plan"].splitlines():
        assert line in ran.out
    assert f"{told['parameters']:,}" in ran.out


def test_info_of_a_foreign_picture_says_so(run: Run, tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    assert "a.png: holds no parameters of fewstep" in run("info", tmp_path / "a.png").error


def test_a_text_from_a_model_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    emit_fields("\x1b[2Jtitle", {"na\x07me": "one\x1b[31m\ntwo :smile: [red]"})
    assert capsys.readouterr().out == " [2Jtitle\n  na me  one [31m\n         two :smile: [red]\n"


def test_convert_hands_its_options_over(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[object, ...]] = []

    def convert(source: Path | None, folder: Path, overwrite: bool = False) -> ModelSpec:
        called.append((source, folder, overwrite))
        return SPEC

    monkeypatch.setattr("fewstep.models.convert_terrain.convert_terrain", convert)
    ran = run("convert", "terrain", "--source", "a.onnx", "--out", tmp_path / "m", "--overwrite", "--json")
    assert ran.code == 0
    assert json.loads(ran.out) == {"model": str(tmp_path / "m"), "name": "tiny", "licence": "MIT", "source": ""}
    assert run("convert", "terrain").out.startswith(".models/terrain\n")
    assert called == [(Path("a.onnx"), tmp_path / "m", True), (None, Path(".models/terrain"), False)]


def test_colour_is_for_terminals_and_no_color_is_respected(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = re.compile(r"\x1b\[(\d+;)*(3|4|9|10)\d(;\d+)*m")
    assert "\x1b" not in run("info").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert coloured.search(run("info").out)
    assert coloured.search(run("generate", "nothing").err)
    monkeypatch.setenv("NO_COLOR", "1")
    for arguments in (["info"], ["generate", "nothing"], ["generate", "--help"]):
        ran = run(*arguments)
        assert not coloured.search(ran.out + ran.err)


@pytest.mark.parametrize("command", [[], ["generate"], ["info"], ["convert"]], ids=" ".join)
def test_help_teaches_by_example(run: Run, command: list[str]) -> None:
    ran = run(*command, "--help")
    assert ran.code == 0
    assert ran.err == ""
    examples = ran.out.split("Examples", 1)[1]
    assert "fewstep" in examples
    assert ran.out.isascii() or all(ord(letter) < 0x3000 for letter in ran.out)  # no emoji for ":100:"


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    assert run().out.split() == run("--help").out.split()
    assert run("--version").out == f"fewstep {fewstep.__version__}\n"


# lists of numbers


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("3", [3]),
        ("3,7", [3, 7]),
        (" 3 , 7.5 ", [3, 7.5]),
        ("5:100:16", [5 + 95 * index / 15 for index in range(16)]),
        ("0:15:16", list(range(16))),
        ("100:5:2", [100, 5]),
        ("4:9:1", [4]),
        ("1,5:6:3", [1, 5, 5.5, 6]),
        ("-2.5,1e1", [-2.5, 10]),
    ],
)
def test_lists_and_ranges(text: str, values: list[float]) -> None:
    assert numbers("labels", text) == pytest.approx(values, rel=1e-15)
    assert numbers("labels", text)[-1] == values[-1]


def test_whole_values_are_integers_and_large_seeds_are_exact() -> None:
    assert [type(value) for value in numbers("labels", "3,5:6:3")] == [int, int, float, int]
    assert whole_numbers("seeds", "18446744073709551615,9007199254740993") == [2**64 - 1, 2**53 + 1]


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "1:2", "1:2:0", "1:2:3:4", "a", "inf", "1:nan:3", "0:1:1e3", "0:1:99999"]
)
def test_a_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="labels: got"):
        numbers("labels", text)

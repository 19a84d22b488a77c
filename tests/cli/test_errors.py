"""The command line when something is wrong: one line, an exit code, nothing left behind."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fewstep import memory
from fewstep.engine import Engine
from support.cli_case import Run, fails_with, names

CPU_FULL = "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "500"], "labels: got 500; allowed: numbers from 1 to 100"),
        (["--labels", "3,x"], "labels: got 'x'; allowed: numbers like 3,7 or a range .* like 5:100:16"),
        (["--labels", "1:2"], "labels: got '1:2'; allowed: numbers like"),
        (["--labels", "nan"], "labels: got 'nan'; allowed: numbers like"),
        (["--labels", "none"], "labels: got None; allowed: one per sample, numbers from 1 to 100"),
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
        (
            ["--labels", "5", "--guidance-scale", "3"],
            r"--guidance-scale: got 3(\.0)?; allowed: 1: there is no null label",
        ),
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
        (["convert", "landscape"], "model: got 'landscape'; allowed: terrain or folder"),
        (["convert", "folder"], "source: got None; allowed: the folder to convert"),
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
    assert re.match(r"image: got .*bomb\.png: 10000x10000 pixels; allowed: .* at most \d+ pixels", ran.error)
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
    assert ran.error.startswith("samples 0, 1 (seeds 3, 4): the images are not finite")
    assert ran.code == 2
    assert names(tmp_path) == []
    ran = run("generate", heights, "--labels", "5,6", "--seed", 3, "--out", tmp_path / "out.npy")
    assert ran.code == 0
    assert ran.err.startswith("warning: samples 0, 1 (seeds 3, 4): the images are not finite")
    assert ran.err.endswith("out.npy holds NaN or infinity\n")


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (RuntimeError("first\nsecond"), "unexpected RuntimeError: first second; re-run with FEWSTEP_TRACEBACK=1"),
        (OSError(errno.EIO, "Input/output error", "disk"), "disk: Input/output error; re-run with FEWSTEP_TRACE"),
        (torch.OutOfMemoryError("CUDA ..."), "out of memory; fewer samples at once (--n) or --dtype"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
            "out of memory;",
        ),
        (MemoryError(), "out of memory;"),
    ],
    ids=["a defect", "the system", "memory of a GPU", "memory of a CPU", "memory of Python"],
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--batch", 100_000_000],
            "batch: got 100000000; allowed: what fits into memory; such a batch in training takes",
        ),
        (["--channels", "16384,16384"], "unet: the U-Net has 56,408,835,713 parameters; allowed: at most"),
        (["--channels", "2048,4096"], "unet: got 2,3"),
    ],
    ids=["batch", "absurd network", "network"],
)
def test_training_that_does_not_fit_is_refused_before_anything_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], message: str
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2**30)
    ran = run("train", "--data", "digits", "--out", tmp_path / "new", *arguments)
    assert ran.code == 2
    assert ran.error.startswith(message)
    assert names(tmp_path) == []


def test_training_that_runs_out_of_memory_says_what_takes_less(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(CPU_FULL)

    monkeypatch.setattr("fewstep.train.session.fit", fail)
    ran = run("train", "--data", "digits", "--out", tmp_path / "new")
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("error: out of memory; fewer images at once (--batch), smaller ones (")


# info, convert, help

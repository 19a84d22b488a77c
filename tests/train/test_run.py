"""`fewstep train` from beginning to end: it learns, is killed and resumed to the bit, and fails in one line."""

import csv
import errno
import io
import json
import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from fewstep import Engine, Unconditional
from fewstep.cli import main
from fewstep.cli.training import fit_progress
from fewstep.errors import FewstepError
from fewstep.models.load import open_folder
from fewstep.results import read_parameters
from fewstep.train import Batch, FitConfig, Listeners, Progress, TrainConfig, fit, last_checkpoint, train
from fewstep.train.ema import Ema
from fewstep.train.losses import Objective
from support.train_case import bars, bars_data, bars_file, command, contents, settings_file

pytestmark = pytest.mark.slow

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The flags of a tiny run."""
    folder = tmp_path_factory.mktemp("case")
    return ["--data", bars_file(folder), "--config", settings_file(folder), "--threads", 1, "--device", "cpu"]


@pytest.fixture(scope="module")
def whole(case: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert run(*case, "--out", out, "--quiet") == 0
    return out


def run(*arguments: object) -> int:
    return main(["train", *map(str, arguments)])


def rows(out: Path) -> list[dict[str, float]]:
    with (out / "loss.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def the_one_line(captured: Captured) -> str:
    said = captured.readouterr().err.splitlines()
    lines = [line for line in said if not line.startswith("step ") and not re.match(r"[\d,]+ images, ", line)]
    assert len(lines) == 1, lines
    return lines[0].removeprefix("error: ")


def test_a_reduced_run_on_the_digits_improves_its_loss(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "digits"
    flags = ["--channels", "8,16,32", "--steps", 40, "--batch", 16, "--learning-rate", 4e-3, "--ema", 0.9]
    settings = settings_file(tmp_path, "warmup = 5\nsample_steps = 4")
    cadence = ["--log-every", 8, "--sheet-every", 40, "--threads", 1]
    assert run("--data", "digits", "--config", settings, "--out", out, *flags, *cadence) == 0
    captured = capsys.readouterr()
    losses = [row["loss"] for row in rows(out)]
    print(losses)
    assert len(losses) == 5
    assert losses[-1] < 0.5 * losses[0]
    assert len(re.findall(r"^step \d+/40  loss [\d.]+  \d+ samples/s  0:\d\d:\d\d left$", captured.err, re.M)) == 40
    assert captured.out.split()[0] == str(out)

    engine = Engine.from_pretrained(out)
    assert engine.sample(labels=[3, 7], steps=2, seeds=0, guidance_scale=2.0).images.shape == (2, 1, 32, 32)
    unet_bytes = (out / "model.safetensors").stat().st_size
    assert unet_bytes < 2**20
    sheet = out / "samples/step-00000040.png"
    assert Image.open(sheet).size == (8 * 34 - 2, 10 * 34 - 2)
    assert read_parameters(sheet)["step"] == "40"
    assert Image.open(out / "loss.png").size[0] > 500


def test_the_model_is_the_average_and_its_card_says_how_it_came_to_be(whole: Path, case: list[object]) -> None:
    engine = Engine.from_pretrained(whole)
    checkpoint = last_checkpoint(whole)
    assert checkpoint is not None
    state = engine.module.state_dict()
    assert all(torch.equal(checkpoint.tensors[f"ema.{name}"], value) for name, value in state.items())
    assert any(not torch.equal(checkpoint.tensors[f"model.{name}"], value) for name, value in state.items())
    assert engine.model.prediction == "v"
    assert engine.model.defaults == {"sampler": "ddim", "steps": 2, "clip": 1.0, "clipped_direction": True}
    assert (engine.model.schedule.name, len(engine.model.schedule)) == ("cosine", 50)
    assert engine.model.conditions.null == 2
    _, spec = open_folder(whole)
    assert spec.source.startswith(f"fewstep train --config {case[3]} --data {case[1]} --device cpu --threads 1 --out ")
    assert "40 images" in spec.notes[0]
    assert "24 steps of 8" in spec.notes[1]
    assert "minutes of training on 1 CPU thread" in spec.notes[2]


def test_checkpoints_rows_and_sheets_come_when_they_should(whole: Path) -> None:
    assert [path.name for path in sorted((whole / "checkpoints").iterdir())] == [
        f"step-{step:08d}.safetensors" for step in (15, 20, 24)
    ]
    assert [row["step"] for row in rows(whole)] == [2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20, 22, 24]
    assert sorted(path.name for path in (whole / "samples").iterdir()) == ["step-00000012.png", "step-00000024.png"]


@pytest.mark.long
def test_a_run_killed_at_a_random_step_resumes_to_the_same_bits(tmp_path: Path, case: list[object]) -> None:
    flags, steps = [*case, "--steps", 30, "--sheet-every", 15], 30
    assert run(*flags, "--out", tmp_path / "whole", "--quiet") == 0

    out, kill_at = tmp_path / "killed", random.SystemRandom().randrange(5, 25)
    print(f"killed at step {kill_at}")
    with command(*flags, "--out", out) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"step {kill_at}/"):
                os.kill(process.pid, signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
    assert not (out / "model.safetensors").exists()
    checkpoint = last_checkpoint(out)
    assert checkpoint is not None
    assert kill_at - 5 <= checkpoint.step < steps

    with command("--out", out, "--resume", "--threads", 1, "--device", "cpu") as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert f"step {checkpoint.step + 1}/30" in said
    assert f"step {checkpoint.step}/30" not in said
    same_bits(tmp_path / "whole", out)


def same_bits(expected: Path, found: Path) -> None:
    """The model, the last checkpoint's every tensor, the record and the last sheet."""
    assert weights(expected) == weights(found)
    one, other = last_checkpoint(expected), last_checkpoint(found)
    assert one is not None
    assert other is not None
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    assert (expected / "loss.csv").read_bytes() == (found / "loss.csv").read_bytes()
    sheets = [sorted((out / "samples").iterdir())[-1] for out in (expected, found)]
    assert (np.asarray(Image.open(sheets[0])) == np.asarray(Image.open(sheets[1]))).all()


def test_ctrl_c_saves_and_resuming_ends_with_the_same_bits(
    tmp_path: Path, case: list[object], whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    update = Ema.update

    def interrupted(self: Ema, module: nn.Module, k: int) -> None:
        update(self, module, k)
        if k == 7:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Ema, "update", interrupted)
    out = tmp_path / "out"
    assert run(*case, "--out", out, "--quiet") == 130
    monkeypatch.undo()
    assert "stopped at step 7, saved" in capsys.readouterr().err
    assert sorted(path.name for path in (out / "checkpoints").iterdir())[-1] == "step-00000007.safetensors"
    assert not (out / "model.safetensors").exists()
    assert run(*case, "--out", out, "--resume", "--quiet") == 0
    assert weights(out) == weights(whole)


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def test_a_corrupt_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(
    tmp_path: Path, case: list[object], whole: Path, capsys: Captured
) -> None:
    out = stopped_at(tmp_path, case, 15)
    bad = out / "checkpoints/step-00000015.safetensors"
    bad.write_bytes(bad.read_bytes()[:-100])
    capsys.readouterr()
    assert run(*case, "--out", out, "--resume", "--quiet") == 0
    said = the_one_line(capsys)
    assert re.fullmatch(f"{re.escape(str(bad))}: .*set aside as .*, step-00000010.safetensors is used instead", said)
    same_bits(whole, out)


def stopped_at(folder: Path, case: list[object], step: int) -> Path:
    """A run that came to `step` and was stopped there."""
    out = folder / "out"
    config = TrainConfig.from_toml(Path(str(case[3])))
    config = TrainConfig.from_dict({"data": str(case[1])}, config)
    seen = [0]
    listeners = Listeners(progress=lambda now: seen.__setitem__(0, now.step), stop=lambda: seen[0] == step - 1)
    assert not train(config, out, listeners=listeners).finished
    return out


def test_a_full_disk_is_one_line_and_loses_nothing(
    tmp_path: Path, case: list[object], whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    out, fsync = tmp_path / "out", os.fsync

    def full(handle: int) -> None:
        folder = out / "checkpoints"
        if (folder / "step-00000010.safetensors").exists() and any(folder.glob(".fewstep-*.tmp")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert run(*case, "--out", out, "--quiet") == 2
    place = out / "checkpoints/step-00000015.safetensors"
    assert the_one_line(capsys) == f"{place}: cannot be written: no space left on device"
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == [
        "step-00000005.safetensors",
        "step-00000010.safetensors",
    ]
    monkeypatch.undo()
    assert run(*case, "--out", out, "--resume", "--quiet") == 0
    same_bits(whole, out)


def test_a_loss_that_is_not_finite_stops_the_run_at_its_last_good_checkpoint(
    tmp_path: Path, case: list[object], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    objective, calls = Objective.__call__, [0]

    def diverging(self: Objective, module: nn.Module, batch: Batch, _: nn.Module | None = None) -> dict[str, Tensor]:
        calls[0] += 1
        parts = objective(self, module, batch)
        return parts | {"loss": parts["loss"] * float("nan")} if calls[0] == 13 else parts

    monkeypatch.setattr(Objective, "__call__", diverging)
    out = tmp_path / "out"
    assert run(*case, "--out", out, "--quiet") == 2
    monkeypatch.undo()
    good = out / "checkpoints/step-00000010.safetensors"
    assert the_one_line(capsys) == (
        f"the loss is nan at step 13; the last good checkpoint is {good}: "
        "the run can be resumed from it with a lower --learning-rate"
    )
    found = last_checkpoint(out)
    assert found is not None
    assert found.path == good
    assert all(tensor.isfinite().all() for tensor in found.tensors.values())

    assert run(*case, "--out", out, "--resume", "--quiet", "--learning-rate", 1e-3) == 0
    said = capsys.readouterr().err.splitlines()
    assert said == ["learning_rate: was 0.003, is now 0.001", "40 images, 2 classes: 0 (20), 1 (20)"]
    assert Engine.from_pretrained(out).sample(labels=[0], seeds=0).images.isfinite().all()


def test_a_gradient_that_is_not_finite_stops_the_run_too(tmp_path: Path) -> None:
    def steep(module: nn.Module, batch: Batch, average: nn.Module | None = None) -> dict[str, Tensor]:
        answer = module(batch.x_0.flatten(1))
        return {"loss": (answer.mean() - answer.mean().detach()).abs().sqrt()}

    with pytest.raises(FewstepError, match="the grad norm is nan at step 1; there is no checkpoint yet"):
        fit(nn.Linear(64, 1), steep, bars_data(False), FitConfig(steps=3, batch=4), tmp_path, about={})


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction": "eps", "min_snr_gamma": 0.0},
        {"prediction": "x_0", "learned_range": True},
        {"prediction": "flow", "schedule": {"name": "flow", "num_timesteps": 50}, "min_snr_gamma": 0.0},
        {"schedule": {"name": "linear", "num_timesteps": 50, "zero_terminal_snr": True}, "min_snr_gamma": 0.0},
        {"dtype": "bfloat16"},
        {"label_dropout": 0.0},
        {"unet": {"channels": [8, 8], "groups": 4, "mid_attention": False, "dropout": 0.2}},
    ],
    ids=["eps", "learned range", "flow", "zero terminal SNR", "bf16", "no null class", "dropout"],
)
def test_every_kind_of_model_learns_the_same_twice_and_samples(
    tmp_path: Path, case: list[object], changes: dict[str, Any]
) -> None:
    config = TrainConfig.from_toml(Path(str(case[3])))
    config = TrainConfig.from_dict(
        {"data": str(case[1]), "sheet_every": 0, "steps": 24, "learning_rate": 8e-3, **changes}, config
    )
    generator = torch.get_rng_state()
    trained = train(config, tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), generator)  # torch's own generator is the user's
    losses = [row["loss"] for row in rows(trained.folder)]
    print([losses[0], losses[-1]])
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert ("vlb" in rows(trained.folder)[0]) == config.learned_range
    engine = Engine.from_pretrained(trained.folder)
    assert engine.model.prediction == config.prediction
    images = engine.sample(labels=[0, 1], seeds=0).images
    assert images.isfinite().all()
    if config.learned_range:
        plan = engine.plan(4, "ddpm", variance="learned_range")
        assert engine.sample(labels=[0], plan=plan, seeds=0).images.isfinite().all()
    if changes.get("label_dropout") == 0.0:
        assert engine.model.conditions.guidable is False

    stop = [0]
    listeners = Listeners(progress=lambda now: stop.__setitem__(0, now.step), stop=lambda: stop[0] == 12)
    assert not train(config, tmp_path / "b", listeners=listeners).finished
    assert train(config, tmp_path / "b", resume=True).finished
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_another_seed_is_another_model(tmp_path: Path, case: list[object], whole: Path) -> None:
    assert run(*case, "--out", tmp_path / "a", "--quiet", "--seed", 1) == 0
    one, other = (load_file(out / "model.safetensors") for out in (whole, tmp_path / "a"))
    assert not torch.equal(one["conv_in.weight"], other["conv_in.weight"])


def test_images_without_labels_make_an_unconditional_model(tmp_path: Path, case: list[object]) -> None:
    np.savez(tmp_path / "plain.npz", images=bars()[0])
    flags = ["--data", tmp_path / "plain.npz", "--config", case[3], "--steps", 4, "--sheet-every", 4, "--quiet"]
    assert run(*flags, "--out", tmp_path / "out") == 0
    engine = Engine.from_pretrained(tmp_path / "out")
    assert engine.model.conditions == Unconditional()
    assert engine.sample(2, seeds=0).images.shape == (2, 1, 8, 8)


def test_extra_conditioning_and_dropped_labels_reach_the_module(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def loss(module: nn.Module, batch: Batch, average: nn.Module | None = None) -> dict[str, Tensor]:
        seen.append(batch.conditioning["labels"])
        return {"loss": module(batch.x_0.flatten(1)).square().mean()}

    config = FitConfig(steps=50, batch=40)
    fit(nn.Linear(64, 1), loss, bars_data(), config, tmp_path, about={}, null=2, label_dropout=0.25)
    dropped = torch.cat(seen) == 2
    assert float(dropped.double().mean()) == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 2000) ** 0.5)
    assert torch.cat(seen)[~dropped].bincount().tolist() == pytest.approx([750, 750], abs=100)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", 0], "steps: got 0; allowed: an integer from 1"),
        (["--prediction", "noise"], "prediction: got 'noise'; allowed: eps or x_0 or v or flow"),
        (["--schedule", "cosin"], "schedule name: got 'cosin'; allowed: linear"),
        (["--channels", "8,x"], "channels: got '8,x'; allowed: whole numbers like 16,32,64"),
        (["--channels", "8,12"], r"unet: groups: got 8; allowed: a divisor of channels\[1\] = 12"),
        (["--channels", "8,8,8,8,8"], "size: got images of 8x8; allowed: sides that are multiples of 16, for a U-Net"),
        (["--data", "no.npz"], "data: got no.npz: it cannot be read: No such file or directory; allowed"),
        (["--config", "no.toml"], "config: got 'no.toml'; allowed: a TOML file; no such file"),
        (["--device", "gpu"], "device: got 'gpu'; allowed: cpu"),
        (["--threads", 0], "threads: got 0; allowed: an integer from 1"),
        (["--lr", 1], "No such option: --lr"),
        (["--resume"], "resume: got .*out without a checkpoint; allowed: a run to go on with, or --data to begin one"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_wrong_flag_is_one_line_and_writes_nothing(
    tmp_path: Path, case: list[object], capsys: Captured, flags: list[object], message: str
) -> None:
    given = [] if "--resume" in flags else case
    assert run(*given, *flags, "--out", tmp_path / "new" / "out") == 2
    assert re.match(message, the_one_line(capsys))
    assert not (tmp_path / "new").exists()


def test_a_folder_in_use_is_not_written_into(tmp_path: Path, case: list[object], capsys: Captured) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"kept")
    assert run(*case, "--out", tmp_path / "out") == 2
    assert the_one_line(capsys).endswith(
        "out: holds files already; allowed: a new or empty folder, or to resume the run in it"
    )
    assert contents(tmp_path / "out") == {"mine": b"kept"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prediction", "eps"], "prediction: got 'eps'; allowed: v, as the run in "),
        (["--channels", "8,16"], "unet: got .*; allowed: .* as the run in "),
        (["--steps", 4], "steps: got 4; allowed: 24 or more: so many are done"),
    ],
    ids=["prediction", "network", "fewer steps"],
)
def test_a_run_cannot_be_resumed_as_another(
    case: list[object], whole: Path, capsys: Captured, flags: list[object], message: str
) -> None:
    before = contents(whole)
    assert run(*case, *flags, "--out", whole, "--resume") == 2
    assert re.match(message, the_one_line(capsys))
    assert contents(whole) == before


def test_other_images_under_the_same_name_are_noticed(tmp_path: Path, capsys: Captured) -> None:
    flags = ["--data", bars_file(tmp_path), "--config", settings_file(tmp_path), "--out", tmp_path / "out", "--quiet"]
    assert run(*flags, "--steps", 5) == 0
    bars_file(tmp_path, images=255 - bars()[0])
    capsys.readouterr()
    assert run(*flags, "--steps", 6, "--resume") == 2
    assert re.match(
        "data: got .*, which has changed; allowed: the images that the run in .* began with", the_one_line(capsys)
    )


def test_json_is_one_object_on_stdout(tmp_path: Path, case: list[object], capsys: Captured) -> None:
    assert run(*case, "--out", tmp_path / "out", "--steps", 4, "--json") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    answer = json.loads(captured.out)
    assert (answer["model"], answer["steps"]) == (str(tmp_path / "out"), 4)
    assert answer["loss"] > 0


def test_a_terminal_gets_a_bar_with_loss_speed_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with fit_progress(quiet=False, verb="train") as advance:
        advance(Progress(step=30, steps=60, loss=0.1234, samples_per_second=456.7, seconds_left=3725))
    assert "30/60" in screen.getvalue()
    assert "loss 0.1234  457 samples/s  1:02:05 left" in screen.getvalue()

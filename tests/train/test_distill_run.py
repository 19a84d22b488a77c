"""`fewstep distill` from beginning to end: students learn, carry their plan, are resumed, and refuse in one line."""

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fewstep import Engine, UntrainedPlanWarning
from fewstep.cli import main
from fewstep.errors import ArgumentError, OutputError
from fewstep.models.load import load_model
from fewstep.train import DistillConfig, Listeners, TrainConfig, distill, train
from fewstep.train.distill import build
from support.train_case import SETTINGS, bars_file, settings_file

pytestmark = pytest.mark.slow

Captured = pytest.CaptureFixture[str]
QUICK = ("--batch", 8, "--learning-rate", 3e-3, "--ema", 0.9, "--log-every", 5, "--threads", 1, "--device", "cpu")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that has learnt a little."""
    folder = tmp_path_factory.mktemp("teacher")
    text = SETTINGS.replace("steps = 24", "steps = 150", 1).replace("sheet_every = 12", "sheet_every = 0")
    config = TrainConfig.from_toml(settings_file(folder, text.replace("sample_steps = 2", "sample_steps = 8")))
    train(TrainConfig.from_dict({"data": str(bars_file(folder))}, config), folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def chain(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Students of 4, 2 and 1 steps, each from the one before."""
    out = tmp_path_factory.mktemp("chain") / "students"
    assert run(teacher, "--student-steps", "4,2,1", "--steps", "60,70,80", "--out", out, *data_of(teacher), *QUICK) == 0
    return out


def run(*arguments: object) -> int:
    return main(["distill", *map(str, arguments), "--quiet"])


def data_of(teacher: Path) -> tuple[str, Path]:
    return "--data", teacher.parent / "bars.npz"


def config_of(folder: Path, **values: Any) -> DistillConfig:
    small: dict[str, Any] = {
        "teacher": str(folder),
        "batch": 8,
        "steps": 12,
        "warmup": 4,
        "checkpoint_every": 4,
        "sheet_every": 0,
        "student_steps": 2,
    }
    return DistillConfig.from_dict({"data": str(data_of(folder)[1]), **small, **values})


def losses(out: Path) -> list[float]:
    with (out / "loss.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def said(captured: Captured) -> str:
    return captured.readouterr().err.strip()


def test_every_student_of_a_chain_improves_its_loss(chain: Path) -> None:
    for name in ("4-step", "2-step", "1-step"):
        found = losses(chain / name)
        print(name, found)
        assert sum(found[-3:]) < 0.7 * sum(found[:3])


@pytest.mark.parametrize("steps", [4, 2, 1])
def test_a_student_carries_the_plan_it_was_trained_for(chain: Path, steps: int) -> None:
    folder = chain / f"{steps}-step"
    engine = Engine.from_pretrained(folder, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = engine.sample(labels=[0, 1], seeds=0, guidance_scale=2.0)
    assert samples.model_calls == steps
    assert (samples.plan.sampler, len(samples.plan)) == ("ddim", steps)
    with pytest.warns(UntrainedPlanWarning, match=f"trained for ddim with {steps} step"):
        engine.sample(labels=[0, 1], seeds=0, steps=steps + 1)


def test_its_card_says_how_to_make_it_again(chain: Path, teacher: Path) -> None:
    spec = json.loads((chain / "2-step" / "fewstep.json").read_text())
    assert spec["source"].startswith(
        f"fewstep distill {chain / '4-step'} --student-steps 2 --teacher-steps 4 --steps 70"
    )
    assert spec["guidance"] == {"min": 1.0, "max": 2.0, "default": 1.25}
    assert spec["trained"] == {"sampler": "ddim", "steps": [2]}
    assert spec["labels"] == {"kind": "classes", "count": 2, "null": None}
    assert spec["unet"]["num_classes"] == 2
    notes = " ".join(spec["notes"])
    for words in ("4-step, 2 steps for 4 of its teacher", "guidance 1 to 2 as an input", "bars.npz", "70 steps of 8"):
        assert words in notes


def test_a_student_begins_as_its_teacher(teacher: Path) -> None:
    module, taught = load_model(teacher)
    student, spec = build(config_of(teacher), module, taught, (1.0, 2.0), "student")
    x, t, labels = torch.randn(3, 1, 8, 8), torch.tensor([1.0, 20.0, 49.0]), torch.tensor([0, 1, 0])
    with torch.no_grad():
        expected = module(x, t, labels)
        for w in (1.0, 1.7):
            assert torch.equal(student(x, t, labels, guidance=torch.full((3,), w)), expected)
    assert spec.unet == student.config


def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(teacher: Path, tmp_path: Path) -> None:
    config = config_of(teacher)
    distill(config, tmp_path / "whole")
    steps: list[int] = []
    listeners = Listeners(progress=lambda now: steps.append(now.step), stop=lambda: len(steps) == 6)
    assert not distill(config, tmp_path / "halves", listeners=listeners).finished
    assert not (tmp_path / "halves" / "fewstep.json").exists()
    assert distill(config, tmp_path / "halves", resume=True).finished
    whole, halves = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_a_resumed_chain_leaves_finished_students_as_they_are(chain: Path, teacher: Path, capsys: Captured) -> None:
    before = {path: path.stat().st_mtime_ns for path in chain.rglob("*") if path.is_file()}
    arguments = ("--student-steps", "4,2,1", "--steps", "60,70,80", "--out", chain, *data_of(teacher), *QUICK)
    assert run(teacher, *arguments, "--resume") == 0
    assert said(capsys).count("finished already") == 3
    assert {path: path.stat().st_mtime_ns for path in chain.rglob("*") if path.is_file()} == before


def test_a_consistency_student_does_with_any_of_its_steps(teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "consistency"
    arguments = ("--method", "consistency", "--teacher-steps", 8, "--steps", 200, "--out", out, *data_of(teacher))
    assert run(teacher, *arguments, *QUICK) == 0
    found = losses(out)
    print(found)
    assert sum(found[-5:]) < sum(found[:5])
    engine = Engine.from_pretrained(out, device="cpu")
    labels = [0, 1] * 8
    # One step of the student is nearer to where the teacher's walk from the same noise ends than the teacher's own is.
    walked, taught, learnt = (
        Engine.from_pretrained(folder, device="cpu").sample(
            labels=labels, seeds=0, steps=steps, sampler=sampler, guidance_scale=1.5, **options
        )
        for folder, steps, sampler, options in ((teacher, 8, "ddim", {}), (teacher, 1, "lcm", {}), (out, 1, "lcm", {}))
    )
    far, near = (float((one.images - walked.images).square().mean()) for one in (taught, learnt))
    print(far, near)
    assert near < 0.5 * far
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for steps in (1, 2, 4, 8):
            samples = engine.sample(labels=[0, 1], seeds=0, steps=steps)
            assert (samples.plan.sampler, samples.model_calls) == ("lcm", steps)


def test_a_teacher_without_guidance_has_students_without(teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "plain"
    assert (
        run(teacher, "--guidance", "none", "--student-steps", 2, "--steps", 4, "--out", out, *data_of(teacher), *QUICK)
        == 0
    )
    spec = json.loads((out / "fewstep.json").read_text())
    assert spec["guidance"] is None
    assert spec["labels"]["null"] == 2


def test_json_is_one_object_with_every_student(teacher: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "students"
    command = (teacher, "--student-steps", "4,2", "--steps", "2,3", "--out", out, *data_of(teacher), *QUICK, "--json")
    assert run(*command) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["students"]
    assert [(each["model"], each["student_steps"], each["steps"]) for each in found["students"]] == [
        (str(out / "4-step"), 4, 2),
        (str(out / "2-step"), 2, 3),
    ]
    assert all(each["loss"] > 0 for each in found["students"])

    assert run(*command, "--resume") == 0
    again = json.loads(capsys.readouterr().out)["students"]
    assert [(each["model"], each["already"]) for each in again] == [
        (str(out / "4-step"), True),
        (str(out / "2-step"), True),
    ]


def test_json_is_one_object_also_where_the_second_student_fails(
    teacher: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def once(settings: DistillConfig, *arguments: Any, **named: Any) -> Any:
        if settings.student_steps == 2:
            raise OutputError("out: cannot be written: no space left on device")
        return distill(settings, *arguments, **named)

    monkeypatch.setattr("fewstep.train.distill", once)
    command = (teacher, "--student-steps", "4,2", "--steps", 2, "--out", tmp_path / "s", *data_of(teacher), *QUICK)
    assert run(*command, "--json") == 2
    captured = capsys.readouterr()
    assert captured.err == "error: out: cannot be written: no space left on device\n"
    found = json.loads(captured.out)
    assert [each["student_steps"] for each in found["students"]] == [4]
    assert found["error"]["exit_code"] == 2


def test_a_folder_of_the_last_student_that_is_taken_is_told_before_the_first_is_trained(
    teacher: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "2-step").mkdir()
    (tmp_path / "2-step" / "file").write_bytes(b"mine")
    assert run(teacher, "--student-steps", "4,2", "--out", tmp_path, *data_of(teacher), *QUICK) == 2
    assert "2-step: holds files already" in capsys.readouterr().err
    assert not (tmp_path / "4-step").exists()


REFUSED: dict[str, tuple[list[object], str]] = {
    "rising-chain": (
        ["--student-steps", "2,4"],
        "--student-steps: got '2,4'; allowed: falling numbers, such as",
    ),
    "no-number": (["--student-steps", "few"], "--student-steps: got 'few'; allowed: whole numbers such as 8,4,2,1"),
    "too-many-budgets": (
        ["--student-steps", "4,2", "--steps", "1,2,3"],
        "steps: got '1,2,3'; allowed: one number, or 2",
    ),
    "chain-of-consistency": (
        ["--method", "consistency", "--student-steps", "4,2"],
        "allowed: one number: a consistency",
    ),
    "levels-apart": (["--student-steps", 4, "--teacher-steps", 6], "--teacher-steps: got 6; allowed: a multiple of 4"),
    "unknown-method": (["--method", "magic"], "method: got 'magic'; allowed: progressive or consistency"),
    "no-teacher-steps": (["--student-steps", 4, "--teacher-steps", 0], "--teacher-steps: got 0; allowed: an integer"),
    "no-steps": (["--student-steps", "4,2", "--steps", 0], "steps: got 0; allowed: an integer from 1"),
    "no-steps-of-the-last": (["--student-steps", "4,2,1", "--steps", "1,1,0"], "steps: got 0; allowed: an integer"),
    "guidance-backwards": (["--guidance", "4,1"], "guidance: got [4.0, 1.0]; allowed: two scales from 0 to 100"),
    "default-outside": (["--default-guidance", 9], "--default-guidance: got 9.0; allowed: a number in [1, 2]"),
    "other-data": (["--data", "digits"], "data: got digits of shape [1, 32, 32]; allowed: the teacher's [1, 8, 8]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_distilled_is_refused_in_one_line(
    teacher: Path, tmp_path: Path, capsys: Captured, name: str
) -> None:
    flags, message = REFUSED[name]
    out = tmp_path / "out"
    data = () if "--data" in flags else data_of(teacher)
    assert run(teacher, "--out", out, *data, *flags, "--device", "cpu") == 2
    line = said(capsys)
    assert message in line
    assert len(line.splitlines()) == 1
    assert not out.exists()


def test_a_student_keeps_its_teachers_range_of_scales(chain: Path, teacher: Path, tmp_path: Path) -> None:
    config = config_of(teacher, teacher=str(chain / "4-step"), guidance=[1.0, 3.0])
    with pytest.raises(ArgumentError, match=r"guidance: got \[1.0, 3.0\]; allowed: the teacher's, \[1.0, 2.0\]"):
        distill(config, tmp_path / "out")


def test_a_resumed_run_cannot_become_another(teacher: Path, tmp_path: Path) -> None:
    stop = Listeners(stop=lambda: True)
    distill(config_of(teacher), tmp_path / "run", listeners=stop)
    with pytest.raises(ArgumentError, match="student_steps: got 1; allowed: 2, as the run in"):
        distill(config_of(teacher, student_steps=1), tmp_path / "run", resume=True)

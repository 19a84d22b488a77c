"""A method of distillation is one object: a new one runs from flags to folder, and no other file asks which it is."""

import ast
import csv
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep import Engine
from fewstep.cli import main
from fewstep.cli.distill import distill as verb
from fewstep.errors import ArgumentError
from fewstep.models.spec import ModelSpec
from fewstep.train import Batch, DistillConfig, Listeners, TrainConfig, distill, train
from fewstep.train.methods import METHODS, Method
from fewstep.train.teacher import Teacher, drawn_guidance
from support.sources import FEWSTEP, parsed
from support.train_case import SETTINGS, bars_file, settings_file

pytestmark = pytest.mark.slow

Captured = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Mimic:
    """Its student answers noise with what the teacher's first step makes of it."""

    teacher: Teacher
    guidance: tuple[float, float] | None

    def __call__(self, module: nn.Module, batch: Batch, average: nn.Module | None = None) -> dict[str, Tensor]:
        count, labels = len(batch.x_0), batch.conditioning["labels"]
        w = drawn_guidance(self.guidance, batch)
        landed = self.teacher.step(batch.noise, torch.zeros(count, dtype=torch.int64), labels, w)
        t = torch.full((count,), float(self.teacher.plan.levels.t[0]))
        answer = module(batch.noise, t, **batch.conditioning, guidance=w)
        return {"loss": (answer - landed).square().mean(), "reach": landed.abs().mean()}


@dataclass(frozen=True, kw_only=True)
class Mimicry:
    """A method that no file of the package knows of."""

    student_steps: int
    teacher_steps: int | None = None

    alone = "a mimic has no mimics"

    @property
    def walk(self) -> int:
        return self.teacher_steps or 3 * self.student_steps

    @property
    def how(self) -> str:
        return f"a mimic of {self.walk} steps"

    def plan(self, taught: ModelSpec) -> dict[str, Any]:
        return {"sampler": "ddim", "steps": self.student_steps, "clip": 1.0}

    def trained(self, taught: ModelSpec) -> dict[str, Any]:
        return {"sampler": "ddim", "steps": [self.student_steps, 7]}

    def teacher_plan(self, taught: ModelSpec) -> dict[str, Any]:
        return {"sampler": "euler", "steps": self.walk}

    def loss(self, teacher: Teacher, spec: ModelSpec, guidance: tuple[float, float] | None) -> Mimic:
        assert (teacher.plan.sampler, len(teacher.plan)) == ("euler", self.walk)
        return Mimic(teacher, guidance)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    text = SETTINGS.replace("steps = 24", "steps = 2", 1).replace("sheet_every = 12", "sheet_every = 0")
    config = TrainConfig.from_toml(settings_file(folder, text))
    train(TrainConfig.from_dict({"data": str(bars_file(folder))}, config), folder / "model")
    return folder / "model"


@pytest.fixture
def _mimicry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "mimicry", Method(Mimicry, "a student that answers as its teacher's first step does"))


def run(teacher: Path, out: Path, *flags: object) -> int:
    data, machine = ("--data", teacher.parent / "bars.npz"), ("--device", "cpu", "--threads", 1)
    quick = ("--method", "mimicry", "--steps", 30, "--batch", 8, "--learning-rate", 3e-3, "--ema", 0.9)
    return main(["distill", *map(str, (teacher, "--out", out, *data, *quick, *machine, *flags)), "--quiet"])


@pytest.mark.usefixtures("_mimicry")
def test_a_new_method_runs_from_flags_to_folder(teacher: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "mimic"
    assert run(teacher, out, "--student-steps", 2, "--log-every", 5, "--sheet-every", 15) == 0
    assert "2 for 6 steps of" in capsys.readouterr().out
    spec = json.loads((out / "fewstep.json").read_text())
    assert spec["plan"] == {"sampler": "ddim", "steps": 2, "clip": 1.0}
    assert spec["trained"] == {"sampler": "ddim", "steps": [2, 7]}
    assert spec["description"].endswith("Distilled: a mimic of 6 steps.")
    assert "a mimic of 6 steps, guidance 1 to 2 as an input" in spec["notes"][0]
    assert "--method mimicry" in spec["source"]
    with (out / "loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    print(rows)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert all(float(row["reach"]) > 0 for row in rows)
    engine = Engine.from_pretrained(out, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engine.sample(labels=[0, 1], seeds=0).model_calls == 2


@pytest.mark.usefixtures("_mimicry")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--student-steps", "4,2"), "--student-steps: got '4,2'; allowed: one number: a mimic has no mimics"),
        (("--method", "magic"), "method: got 'magic'; allowed: progressive or consistency or mimicry"),
    ],
    ids=["a chain", "an unknown method"],
)
def test_what_is_refused_is_the_methods_to_say(
    teacher: Path, tmp_path: Path, capsys: Captured, flags: tuple[object, ...], message: str
) -> None:
    assert run(teacher, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("_mimicry")
def test_a_new_methods_run_is_resumed_as_no_other(teacher: Path, tmp_path: Path) -> None:
    given = {"teacher": str(teacher), "data": str(teacher.parent / "bars.npz"), "batch": 8, "steps": 4}
    config = DistillConfig.from_dict({**given, "method": "mimicry", "sheet_every": 0})
    assert not distill(config, tmp_path / "run", listeners=Listeners(stop=lambda: True)).finished
    with pytest.raises(ArgumentError, match="method: got 'progressive'; allowed: mimicry, as the run in"):
        distill(DistillConfig.from_dict({"method": "progressive"}, config), tmp_path / "run", resume=True)
    assert distill(config, tmp_path / "run", resume=True).finished


def test_every_option_of_a_method_is_a_setting_with_the_same_default() -> None:
    settings = {field.name: field.default for field in fields(DistillConfig)}
    for name, method in METHODS.items():
        print(name, method.options)
        assert method.options.items() <= settings.items()


@pytest.mark.parametrize("method", METHODS)
def test_the_options_of_methods_that_were_not_asked_for_are_checked_too(method: str) -> None:
    with pytest.raises(ArgumentError, match="weighting: got 'x'; allowed: truncated_snr or snr_plus_one"):
        DistillConfig(method=method, weighting="x")
    with pytest.raises(ArgumentError, match=r"huber_c: got 0; allowed: a number in \(0, 100\]"):
        DistillConfig(method=method, huber_c=0)
    assert repr(DistillConfig(method=method, huber_c=2).huber_c) == "2.0"


def test_help_lists_every_method() -> None:
    for name, method in METHODS.items():
        assert f"\n{name}: {method.summary}." in str(verb.__doc__)


def holds_a_name(*parts: ast.AST | None) -> bool:
    """Whether one of the strings in a piece of code is a method's name."""
    inner = [each for part in parts if part is not None for each in ast.walk(part)]
    return any(isinstance(each, ast.Constant) and each.value in METHODS for each in inner)


def asks(tree: ast.AST, anything: bool) -> Iterator[str]:
    """Where a file asks which method it is: a comparison, a case, a key of a table, or the class of an object.

    Args:
        anything: every comparison with a method's name counts; else only those with what is called a method.
            "consistency" is a sampler and a prediction too, in rooms that know no methods.
    """
    classes = {getattr(method.build, "__name__", "") for method in METHODS.values()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            found = holds_a_name(node) and (anything or "method" in ast.unparse(node))
        elif isinstance(node, ast.match_case):
            found = anything and holds_a_name(node.pattern)
        elif isinstance(node, ast.Dict):
            found = anything and holds_a_name(*node.keys)
        else:
            call = isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "type")
            found = call and any(isinstance(each, ast.Name) and each.id in classes for each in ast.walk(node))
        if found:
            yield ast.unparse(node)


def test_no_file_but_a_methods_own_asks_which_method_it_is() -> None:
    rooms, own = (FEWSTEP / "train", FEWSTEP / "cli"), FEWSTEP / "train/methods"
    files = [path for path in sorted(FEWSTEP.rglob("*.py")) if own not in path.parents]
    found = {path: list(asks(parsed(path), any(room in path.parents for room in rooms))) for path in files}
    assert not {str(path): lines for path, lines in found.items() if lines}
    assert list(asks(parsed(own / "__init__.py"), anything=True))


@pytest.mark.parametrize(
    "source",
    [
        "if config.method == 'consistency': pass",
        "steps = 1 if 'progressive' != method else 2",
        "if config.method in ('progressive', 'other'): pass",
        "match config.method:\n    case 'consistency': pass",
        "loss = {'progressive': 1}[config.method]",
        "if isinstance(config.distillation, ConsistencyDistillation): pass",
    ],
    ids=["equal", "unequal", "one of", "a case", "a table", "a class"],
)
def test_every_form_of_asking_is_seen(source: str) -> None:
    assert len(list(asks(ast.parse(source), anything=True))) == 1


def test_a_sampler_of_a_methods_name_is_no_method() -> None:
    tree = ast.parse("if case.sampler == 'consistency' or config.method == 'consistency': pass")
    assert list(asks(tree, anything=False)) == ["config.method == 'consistency'"]

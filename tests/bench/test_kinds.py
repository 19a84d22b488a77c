"""Every kind of model runs beside the reference or is refused by name; what was measured is shown whatever comes."""

import errno
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep import Engine, Model, schedules
from fewstep.bench import Settings, Subject, run
from fewstep.bench.contenders import BARE, DIFFUSERS, EAGER, ENGINE
from fewstep.bench.parity import ParityError
from fewstep.cli import main
from fewstep.errors import ArgumentError
from support.pipelines_case import saved

ONE = ["--steps", "1", "--batch", "1", "--repeats", "1", "--no-cold", "--quiet", "--sampler", "ddim"]
ONE += ["--beside", "diffusers,bare"]


class Answers(nn.Module):
    """Takes all that a network may be told, labels under the name of another library, and is moved by each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.2, 0.3, 3 * channels).view(channels, 3))

    def forward(
        self, x: Tensor, t: Tensor, class_labels: Tensor | None = None, guidance: Tensor | None = None
    ) -> Tensor:
        m = torch.einsum("oc,bchw->bohw", self.weight, x) * torch.cos(t / 100)[:, None, None, None].to(x.dtype)
        for given in (class_labels, guidance):
            m = m if given is None else m * (1 + 0.1 * given.to(x.dtype)[:, None, None, None])
        return m


CLASSES, NUMBERS = {"kind": "classes", "count": 4}, {"kind": "continuous", "min": 1.0, "max": 3.0}
GUIDED = {"min": 1.0, "max": 2.0, "default": 1.5}
DDIM = {"sampler": "ddim", "steps": 4}
KINDS: dict[str, dict[str, Any]] = {
    "unconditional": {},
    "classes": {"conditions": CLASSES},
    "a null class, guided": {"conditions": {**CLASSES, "null": 4}, "defaults": {**DDIM, "guidance_scale": 3.0}},
    "numbers": {"conditions": NUMBERS},
    "guidance": {"guidance": GUIDED},
    "classes and guidance": {"conditions": CLASSES, "guidance": GUIDED},
    "a student": {"conditions": CLASSES, "guidance": GUIDED, "trained": {"sampler": "ddim", "steps": [4]}},
    "a learned variance": {"channels": 6},
    "zero terminal SNR": {"schedule": schedules.linear().rescale_zero_terminal_snr()},
    "a short schedule": {"schedule": schedules.cosine(20)},
    "time in units": {"time": "unit"},
    "time by index": {"time": "index"},
    "time as sigma": {"time": "sigma"},
    "consistency": {"schedule": schedules.karras(), "prediction": "consistency", "conditions": NUMBERS},
}


def subject(schedule: schedules.Schedule, prediction: str, channels: int = 3, **known: Any) -> Subject:
    model = Model(Answers(channels), schedule=schedule, prediction=prediction, shape=(3, 4, 4), **known)
    return Subject(Engine(model, device="cpu"), "answers", {}, lacks_diffusers="not asked for")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_runs_beside_the_reference(kind: str) -> None:
    measured = subject(**{"schedule": schedules.cosine(), "prediction": "v", **KINDS[kind]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = run(measured, Settings(steps=(1, 3), batches=(1, 3), repeats=1, cold=False, beside=("bare",)))
    assert {row.contender for row in report.rows if row.status == "measured"} == {ENGINE, EAGER, BARE}
    assert max(row.difference for row in report.rows if row.difference is not None) < 2e-5


def test_a_scale_that_is_not_passed_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = subject(schedules.cosine(), "v", guidance=GUIDED)
    without = {name: rows for name, rows in measured.inputs(2).items() if name != "guidance"}
    monkeypatch.setattr(Subject, "inputs", lambda *_: without)
    with pytest.raises(ParityError, match="engine and the eager reference differ"):
        run(measured, Settings(steps=(2,), batches=(2,), repeats=1, cold=False, beside=("bare",)))


@pytest.mark.parametrize(
    ("schedule", "prediction", "sampler"),
    [
        (schedules.flow(), "flow", "euler"),
        (schedules.linear(), "score", "ddim"),
        (schedules.karras(time="edm"), "eps", "euler"),
        (schedules.karras().preconditioned(0.5), "edm", "heun"),
    ],
    ids=["flow", "score", "eps in sigma", "EDM"],
)
def test_kinds_without_a_written_loop_run_beside_the_plan_in_plain_torch(
    schedule: schedules.Schedule, prediction: str, sampler: str
) -> None:
    settings = Settings(steps=(3,), batches=(2,), samplers=[sampler], repeats=1, cold=False, beside=())
    report = run(subject(schedule, prediction), settings)
    assert {row.contender for row in report.rows if row.status == "measured"} == {ENGINE, EAGER}
    assert max(row.difference for row in report.rows if row.difference is not None) < 2e-5


def test_a_network_that_has_no_such_plan_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match="prediction: got 'eps'"):
        run(subject(schedules.linear().rescale_zero_terminal_snr(), "eps"), Settings(steps=(2,), batches=(1,)))


@pytest.mark.parametrize("student", ["digits", "digits/1-step", "digits/2-step", "digits/4-step", "digits/8-step"])
def test_every_student_in_the_box_can_be_benched(student: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", student, *ONE, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = json.loads(captured.out)["rows"]
    found = {row["contender"]: row["status"] for row in rows}
    assert [found[name] for name in (ENGINE, EAGER, BARE)] == ["measured"] * 3
    assert found[DIFFUSERS] == "not in diffusers' format"


@pytest.mark.parametrize("as_json", [False, True], ids=["page", "json"])
@pytest.mark.parametrize("failure", ["disk", "picture", "ctrl-c"])
def test_a_result_that_cannot_be_saved_is_printed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, failure: str, as_json: bool
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def rendered(*_: object) -> dict[str, bytes]:
        if failure == "disk":
            return {}
        raise KeyboardInterrupt if failure == "ctrl-c" else ValueError("no such font")

    monkeypatch.setattr("fewstep.cli.bench._rendered", rendered)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        code = main(["bench", "digits/1-step", *ONE, "--out", str(tmp_path / "out"), *(["--json"] if as_json else [])])
    out, err = capsys.readouterr()
    code_and_line = {
        "disk": (2, f"error: {tmp_path}/out/bench.json: cannot be written: no space left on device\n"),
        "picture": (1, "error: unexpected ValueError: no such font; re-run with FEWSTEP_TRACEBACK=1 to see where\n"),
        "ctrl-c": (130, "error: interrupted\n"),
    }
    assert (code, err) == code_and_line[failure]
    if as_json:
        found = json.loads(out)
        assert found["rows"][0]["median_ms"] > 0
        assert (found["files"], found["error"]["exit_code"]) == ([], code)
    else:
        assert "ms an image" in out
        assert "written" not in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_page_fits_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["bench", "digits/1-step", *ONE]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= columns
    assert "ratio to eager" in page
    assert "set-up" in page


@pytest.mark.slow
def test_a_network_that_is_told_a_text_is_given_random_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved("text to image", tmp_path / "sd")
    assert main(["bench", str(folder), *ONE, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["kind"] for row in rows if row["status"] == "measured"} >= {ENGINE, EAGER, DIFFUSERS}

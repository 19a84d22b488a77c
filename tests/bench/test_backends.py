"""`fewstep bench` by backend: each is judged by the same reference, and one that is not what was asked for says why."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from fewstep import Engine, Model, schedules
from fewstep.bench import ParityError, Report, Settings, Subject, run
from fewstep.bench import lineup as lineups
from fewstep.bench.contenders import EAGER, ENGINE, Case, Contender
from fewstep.bench.lineup import default_backends, lineup
from fewstep.bench.parity import TOLERANCES, check
from fewstep.cli import main
from fewstep.run.backends.backend import UnreadyError
from fewstep.run.backends.call import Call
from fewstep.run.backends.openvino import OpenVino

BOTH = ("float32", "bfloat16")
OPENVINO, HALF = Contender(ENGINE, "openvino"), Contender(ENGINE, "openvino", "bfloat16")
CASE = Case("ddim", 2, 2)


class Mixes(nn.Module):
    """A network of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        answer: Tensor = self.conv(x) * torch.cos(t.to(x.dtype) / 100)[:, None, None, None]
        return answer


class Doubled:
    """A program that answers what the module does, or something near it, through no call of the module's forward."""

    def __init__(self, module: nn.Module, factor: float) -> None:
        self.about: dict[str, object] = {}
        self.module, self.factor = module, factor

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        answer: Tensor = type(self.module).forward(self.module, *inputs) * self.factor
        return answer


def subject() -> Subject:
    model = Model(Mixes(), schedule=schedules.linear(), shape=(3, 4, 4))
    return Subject(Engine(model, device="cpu", backend="torch"), "mixes", {}, lacks_diffusers="not asked for")


def report(backends: Sequence[str], dtypes: Sequence[str] = ("float32",)) -> Report:
    settings = Settings(steps=(2,), batches=(2,), samplers=["ddim"], repeats=2, cold=False)
    return run(subject(), Settings(**{**vars(settings), "backends": backends, "dtypes": dtypes}))


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO's place is taken by programs that need nothing installed."""
    monkeypatch.setattr(OpenVino, "make", lambda _, module, call, inputs: Doubled(module, 1.0))


@pytest.mark.usefixtures("programs")
def test_every_backend_in_every_dtype_is_a_contender_with_parity_time_to_ready_and_its_own_share() -> None:
    found = report(["torch", "openvino"], BOTH)
    measured = [contender for contender in found.contenders if found.row(CASE, contender).status == "measured"]
    assert {each.name for each in measured if each.kind == ENGINE} == {
        "engine", "engine bfloat16", "engine openvino", "engine openvino bfloat16",
    }  # fmt: skip
    for contender in measured:
        row = found.row(CASE, contender)
        assert (row.backend, row.dtype) == (contender.backend, contender.dtype)
        assert row.ready_seconds is not None
        assert row.outside_us is not None  # its network's calls were seen
        if row.difference is not None:
            assert (row.difference < 2e-5) == contender.exact
    assert found.row(CASE, Contender(EAGER, dtype="bfloat16")).ratio == 1


@pytest.mark.usefixtures("programs")
def test_each_dtype_has_a_tolerance_of_its_own() -> None:
    check(lineup(subject(), ["openvino"], BOTH), CASE)
    with pytest.raises(ParityError, match=r"engine openvino bfloat16 and the eager reference differ .* 1e-05"):
        check(lineup(subject(), ["openvino"], BOTH), CASE, {**TOLERANCES, "bfloat16": 1e-5})


def test_a_backend_that_cannot_has_a_row_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(backend: OpenVino, module: nn.Module, call: Call, inputs: Sequence[Tensor]) -> None:
        raise UnreadyError("no such op: fold")

    monkeypatch.setattr(OpenVino, "make", fails)
    found = report(["torch", "openvino"])
    assert found.row(CASE, OPENVINO).status == "no such op: fold"
    assert found.row(CASE, Contender(ENGINE)).status == "measured"


def test_a_program_whose_answer_is_another_is_not_timed_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVino, "make", lambda _, module, call, inputs: Doubled(module, 1.01))
    assert "differs from torch's by 1.0e-02" in report(["torch", "openvino"]).row(CASE, OPENVINO).status


def test_what_is_not_installed_or_not_asked_for_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lineups, "find_spec", lambda name: None)
    arguments = ["--steps", "1", "--batch", "1", "--repeats", "1", "--no-cold", "--quiet", "--sampler", "ddim"]
    assert main(["bench", "digits/1-step", *arguments, "--backends", "torch,openvino"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "engine openvino: not installed: pip install 'fewstep[cpu]'" in page
    said = page.split("installed: pip install 'fewstep[cpu]'", 1)[1].split(": not asked for")[0]
    assert "engine compile" in said


def test_unless_asked_the_environment_says_and_else_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_BACKEND", "compile")
    assert default_backends("cpu") == ("compile",)
    monkeypatch.delenv("FEWSTEP_BACKEND")
    monkeypatch.setattr(lineups, "find_spec", lambda name: name == "openvino")
    assert default_backends("cpu") == ("torch", "openvino")
    assert default_backends("cuda") == ("torch",)
    monkeypatch.setattr(lineups, "find_spec", lambda name: None)
    assert default_backends("cpu") == ("torch",)


@pytest.mark.slow
def test_openvino_itself_runs_beside_the_others() -> None:
    pytest.importorskip("openvino")
    found = report(["torch", "openvino"], BOTH)
    exact, half = found.row(CASE, OPENVINO), found.row(CASE, HALF)
    assert exact.difference is not None
    assert exact.difference < 2e-5
    assert half.difference is not None
    assert 1e-4 < half.difference < TOLERANCES["bfloat16"]

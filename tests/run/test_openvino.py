"""OpenVINO executes a network as torch does: one conversion for all batches, inputs read where they lie."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from fewstep.run.backends import openvino
from fewstep.run.backends.bound import BoundProgram
from fewstep.run.backends.call import Call
from fewstep.run.backends.export import UnexportableError
from fewstep.run.backends.openvino import OpenVino
from support.tree import ROOT

pytest.importorskip("openvino")

SHAPE = (3, 4, 6)


class Net(nn.Module):
    """A convolution, a time and a label."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.label = nn.Embedding(5, 3)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        steered = self.label(labels) + t[:, None].to(x.dtype) / 1000
        return torch.tanh(self.conv(x) + steered[:, :, None, None])


def inputs_of(batch: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *SHAPE, generator=generator).to(memory_format=torch.channels_last)
    return [x, torch.linspace(10, 900, batch), torch.arange(batch)]


class Case:
    """A network and its backend, with a program for each batch."""

    def __init__(self) -> None:
        self.net, self.backend = Net().eval(), OpenVino(torch.float32, threads=1)
        self.programs: dict[int, BoundProgram] = {}

    def program(self, batch: int) -> BoundProgram:
        if batch not in self.programs:
            call = Call.of(inputs_of(batch), ("labels",))
            self.programs[batch] = self.backend.make(self.net, call, inputs_of(batch))
        return self.programs[batch]

    def error(self, inputs: Sequence[Tensor]) -> float:
        """How far the program's answer is from the network's."""
        with torch.no_grad():
            x, t, labels = inputs
            return float((self.program(len(x))(inputs) - self.net(x, t, labels=labels)).abs().max())


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def test_networks_are_looked_at_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.export fails where another thread exports."""
    inside = []

    def looking(*_: object) -> None:
        inside.append(1)
        time.sleep(0.02)
        found.append(len(inside))
        inside.pop()
        raise UnexportableError

    found: list[int] = []
    monkeypatch.setattr(openvino, "exported", looking)
    monkeypatch.setattr(openvino, "traced", looking)
    inputs = inputs_of(1)

    def make(_: int) -> None:
        with pytest.raises(UnexportableError):
            OpenVino(torch.float32, threads=1).make(Net(), Call.of(inputs, ("labels",)), inputs)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make, range(2)))
    assert found == [1] * 4


@pytest.mark.slow
def test_one_conversion_serves_every_number_of_lanes(case: Case) -> None:
    assert max(case.error(inputs_of(batch)) for batch in (2, 1, 4)) < 1e-6
    assert len(case.backend._converted) == 1


def test_what_is_written_into_a_bound_tensor_is_seen(case: Case) -> None:
    inputs = inputs_of(2)
    for seed in range(3):
        for tensor, values in zip(inputs, inputs_of(2, seed), strict=True):
            tensor.copy_(values.roll(seed))
        assert case.error(inputs) < 1e-6


@pytest.mark.parametrize("place", [0, 1, 2], ids=["x", "t", "labels"])
@pytest.mark.parametrize("how", ["sliced", "expanded", "odd offset"])
def test_a_tensor_with_gaps_is_read_anew_in_each_call(case: Case, place: int, how: str) -> None:
    inputs = inputs_of(2)
    memory = torch.stack([inputs[place]] * 2, dim=-1)
    inputs[place] = memory[..., 0]
    if how == "expanded":
        inputs[place] = memory[:1, ..., 0].expand(inputs[place].shape)
    elif how == "odd offset":
        memory = torch.cat([inputs[place][:1], inputs[place]])
        inputs[place] = memory[1:]
    for _ in range(2):
        assert case.error(inputs) < 1e-6
        memory.copy_(memory.flip(0) * 2 if place < 2 else memory.flip(0))


def test_an_image_in_contiguous_memory_is_read_anew_in_each_call(case: Case) -> None:
    inputs = inputs_of(2)
    inputs[0] = inputs[0].contiguous()
    assert case.error(inputs) < 1e-6
    inputs[0].mul_(-2)
    assert case.error(inputs) < 1e-6


def test_the_same_address_in_other_strides_is_another_tensor(case: Case) -> None:
    memory, (_, t, labels) = torch.randn(2, *SHAPE).reshape(-1), inputs_of(2)
    contiguous = memory.view(2, *SHAPE)
    last = memory.view(2, *SHAPE[1:], SHAPE[0]).permute(0, 3, 1, 2)
    for x in (last, contiguous, last, contiguous):
        assert case.error([x, t, labels]) < 1e-6


def test_threads_are_those_asked_for_and_nothing_of_torch_or_the_process_changes() -> None:
    before, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    settings = OpenVino(torch.float32, threads=3).settings()
    assert settings["INFERENCE_NUM_THREADS"] == 3
    assert OpenVino(torch.float32).settings()["INFERENCE_NUM_THREADS"] == before
    assert settings["ENABLE_CPU_PINNING"] is False
    assert OpenVino(torch.bfloat16).settings()["INFERENCE_PRECISION_HINT"] == "bf16"
    assert (torch.get_num_threads(), os.sched_getaffinity(0)) == (before, cores)


def test_two_programs_run_in_two_threads(case: Case) -> None:
    case.program(1), case.program(2)
    with ThreadPoolExecutor(2) as pool:
        errors = pool.map(lambda batch: max(case.error(inputs_of(batch, seed)) for seed in range(20)), (1, 2))
    assert max(errors) < 1e-6


def test_an_answer_holds_until_the_next_call_of_the_same_program(case: Case) -> None:
    one, two = inputs_of(1), inputs_of(2)
    answer = case.program(1)(one)
    kept = answer.clone()
    case.program(2)(two)
    assert torch.equal(answer, kept)


@pytest.mark.slow
def test_weights_that_changed_are_converted_again() -> None:
    case = Case()
    assert case.error(inputs_of(1)) < 1e-6
    with torch.no_grad():
        case.net.conv.weight.mul_(2)
    case.backend.forget()
    case.programs.clear()
    assert case.error(inputs_of(1)) < 1e-6


INTERRUPTED = """
import faulthandler, gc, os, signal, time
from support.small import SmallNet, small_engine
faulthandler.enable()
engines = [small_engine(SmallNet(), backend="openvino") for _ in range(3)]
assert {engine.sample(labels=[1], seeds=0, steps=2) and engine.backend for engine in engines} == {"openvino"}
del engines[1]  # whose stack the third had found
gc.collect()
del engines[1]
gc.collect()
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
os.kill(os.getpid(), signal.SIGINT)
time.sleep(0.01)
print(seen)
"""


@pytest.mark.slow
def test_ctrl_c_reaches_its_handler_after_engines_have_gone() -> None:
    path = os.pathsep.join(str(ROOT / each) for each in ("engine", "kernels", "tests"))
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (0, "[1]\n"), ran.stderr[-2000:]

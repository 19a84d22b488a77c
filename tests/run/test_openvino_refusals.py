"""What OpenVINO does not execute is refused by name; what is only traced is doubted, and told of as unproven."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep.run.backends.backend import UnreadyError
from fewstep.run.backends.bound import BoundProgram
from fewstep.run.backends.call import Call
from fewstep.run.backends.openvino import OpenVino
from fewstep.run.backends.traced import doubted

pytest.importorskip("openvino")


OTHERS = ("fx", "compiled", "scripted", "traced")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.conv(x) + t[:, None, None, None] / 1000)


class Branching(Net):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(x, t) * (2 if t.mean() > 300 else 1)


class Drawing(Net):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(x, t) + 1e-6 * torch.randn_like(x)


class Decomposing(Net):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(x, t) + torch.linalg.svdvals(x).sum()


class Dropping(Net):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x, t), 0.5, self.training)


class InPart(Net):
    """A part of it is scripted, which torch.export does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.part = torch.jit.script(nn.Sequential(nn.Conv2d(2, 2, 1), nn.SiLU()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.part(super().forward(x, t))


def wrapped() -> nn.Module:
    net = Net()
    forward = net.conv.forward
    net.conv.forward = lambda x: 2 * forward(x)  # type: ignore[method-assign]
    return net


def inputs() -> list[Tensor]:
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    return [x.to(memory_format=torch.channels_last), torch.tensor([500.0, 10.0])]


def made(net: nn.Module, tracing: bool = True) -> BoundProgram:
    given = inputs()
    return OpenVino(torch.float32, 1, tracing=tracing).make(net.eval(), Call.of(given, ()), given)


def error(program: BoundProgram, net: nn.Module) -> float:
    x, t = inputs()
    with torch.no_grad():
        return float((program((x, t)) - net(x, t)).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "why"),
    [
        (Branching, "its Python reads values of its tensors"),
        (Drawing, "it draws random numbers (aten.randn_like.default)"),
        (Decomposing, "No conversion rule found for operations: aten._linalg_svd.default"),
        (wrapped, "the forward of a Conv2d in it is wrapped on the instance"),
    ],
    ids=["branching", "drawing", "unsupported", "wrapped"],
)
def test_what_no_graph_does_is_refused_with_the_reason(
    net: Callable[[], nn.Module], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnreadyError) as caught:
        made(net())
    assert why in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_traced_is_told_of_as_unproven_and_only_on_request() -> None:
    net = InPart()
    with pytest.raises(UnreadyError, match=r"^torch\.export: "):
        made(net, tracing=False)
    program = made(net)
    assert error(program, net) < 1e-6
    assert program.about["model"] == "traced"
    assert "unproven" in program.about


@pytest.mark.slow
def test_a_trace_that_is_wrong_at_other_times_is_found_out() -> None:
    program = made(Net())  # which is what a trace of the branching one keeps, at these times
    x, t = inputs()
    doubted(program, Branching().eval(), (), [x, t])
    with pytest.raises(UnreadyError, match=r"its trace is .* from the module at 0\.9 of the first call's times"):
        doubted(program, Branching().eval(), (), [x, t + 100])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["dropout", *(pytest.param(each, marks=pytest.mark.long) for each in OTHERS)])
def test_what_is_executed_in_another_way_is_executed_here_too(how: str) -> None:
    net: Any = (Dropping() if how == "dropout" else Net()).eval()
    plain = copy.deepcopy(net)
    if how == "fx":
        net = torch.fx.symbolic_trace(net)
    elif how == "compiled":
        net = torch.compile(net, backend="eager")
    elif how == "scripted":
        net = torch.jit.script(net)
    elif how == "traced":
        net = torch.jit.trace(net, tuple(inputs()))
    assert error(made(net), plain) < 1e-6


@pytest.mark.slow
def test_nan_stays_in_its_lane() -> None:
    net, (x, t) = Net().eval(), inputs()
    program = made(net)
    alone = program((x, t))[1].clone()
    x[0] = torch.nan
    answer = program((x, t))
    assert answer[0].isnan().all()
    assert torch.equal(answer[1], alone)

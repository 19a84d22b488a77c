"""OpenVINO in bfloat16: what times are made into stays float32, as it is in torch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fewstep.run.backends.bound import BoundProgram
from fewstep.run.backends.call import Call
from fewstep.run.backends.openvino import OpenVino
from fewstep_kernels import timestep_embedding

pytest.importorskip("openvino")

TIMES = torch.tensor([999.0, 998.5, 333.25])  # bfloat16 has 1000 for the first two
ROUNDED = 4 * 2**-8  # of an answer: its weights, the convolution, what it is told and the sum, each rounded to bfloat16


class Told(nn.Module):
    """A convolution that is told its time, by a function of it, as [B, 4, 1, 1]."""

    def __init__(self, made: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.made = nn.Conv2d(4, 4, 3, padding=1), made

    def forward(self, x: Tensor, t: Tensor, **others: Tensor) -> Tensor:
        return self.conv(x) + self.made(t, **others).to(x.dtype)[:, :, None, None]


def waves(t: Tensor) -> Tensor:
    return timestep_embedding(t, 4, True, 0.0)


def entry(t: Tensor, times: Tensor, table: Tensor) -> Tensor:
    row = torch.eq(times, t[:, None], out=torch.empty_like(times, dtype=torch.uint8)).argmax(1)
    return table.gather(1, row[:, None, None].expand(-1, 1, 4)).squeeze(1)


def ahead(t: Tensor, r: Tensor) -> Tensor:
    return (t - r)[:, None].expand(-1, 4)


def whole(t: Tensor) -> Tensor:
    return torch.remainder(t, 10)[:, None].expand(-1, 4)


def of_t_alone(t: Tensor) -> Tensor:
    return (t / 1000)[:, None].expand(-1, 4)


def made(net: nn.Module, others: dict[str, Tensor]) -> tuple[BoundProgram, list[Tensor]]:
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    inputs = [x.to(torch.bfloat16, memory_format=torch.channels_last), TIMES.clone(), *others.values()]
    return OpenVino(torch.bfloat16, 1).make(net, Call.of(inputs, tuple(others)), inputs), inputs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "others"),
    [
        (waves, {}),
        (entry, {"times": TIMES.flip(0).expand(3, 3), "table": torch.randn(3, 3, 4)}),
        pytest.param(ahead, {"r": TIMES - 1}, marks=pytest.mark.long),
        pytest.param(whole, {}, marks=pytest.mark.long),
    ],
    ids=["waves", "an entry of a table", "a difference", "a remainder"],
)
def test_times_that_bfloat16_cannot_tell_apart_are_told_apart(
    function: Callable[..., Tensor], others: dict[str, Tensor]
) -> None:
    net = Told(function).eval().bfloat16()
    program, inputs = made(net, others)
    precise = Told(function).eval()
    ours, rough = list[float](), list[float]()
    for t in (TIMES, TIMES.flip(0)):
        inputs[1].copy_(t)
        with torch.no_grad():
            right = precise(inputs[0].float(), t, **others)
            confused = net(*(each.bfloat16() for each in inputs[:2]), **{k: v.bfloat16() for k, v in others.items()})
        for found, answer in ((ours, program(inputs)), (rough, confused)):
            found.append(float((answer.float() - right).norm() / right.norm()))
    print(f"{max(ours):.1e}, with times in bfloat16 {max(rough):.1e}")
    assert max(ours) <= ROUNDED
    assert max(rough) > 10 * ROUNDED


@pytest.mark.slow
def test_inputs_and_answer_are_bfloat16_and_the_weights_stay_so() -> None:
    net = Told(of_t_alone).eval().bfloat16()
    program, inputs = made(net, {})
    assert program._first is None  # there is nothing to make ahead
    assert program(inputs).dtype == torch.bfloat16
    assert {each.dtype for each in net.parameters()} == {torch.bfloat16}
    inputs[0].mul_(-2)
    with torch.no_grad():
        torch.testing.assert_close(program(inputs), net(inputs[0], inputs[1]), rtol=0.02, atol=0.02)

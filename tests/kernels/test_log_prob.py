"""The log-probability of a step against float64: the twin, and the Triton kernel in the interpreter or on a GPU.

The oracle is torch.distributions' Normal over the noise that a step draws, summed by math.fsum.
"""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep_kernels import COLUMN, COLUMNS, STREAM_STEP, fused, reference
from fewstep_kernels.fused.log_prob import step_log_prob_launch
from support.devices import KERNEL_DEVICES

SHAPES = {  # of a sample, and the elements of a tile
    "one element": ((1, 1, 1), 256),
    "9x7, a ragged second tile": ((5, 9, 7), 256),
    "63x21": ((2, 63, 21), None),
    "64x64 latents": ((4, 64, 64), None),
}
FORMS = ("by seed", "given noise", "learned", "mask", "mask of every channel", "everything")


@dataclass
class Case:
    """Four samples: two that add noise, one that adds none, and one idle at the last row."""

    log_prob: Tensor
    model_output: Tensor
    row: Tensor
    step: Tensor
    seed: Tensor
    cond_lane: Tensor
    channels: int
    options: dict[str, Any]

    def on(self, device: str) -> "Case":
        def there(value: Any) -> Any:
            return value.clone().to(device) if isinstance(value, Tensor) else value

        values = {name: there(value) for name, value in vars(self).items() if name != "options"}
        return Case(**values, options={name: there(value) for name, value in self.options.items()})

    def arguments(self) -> tuple[Any, ...]:
        return (
            self.log_prob, self.model_output, self.row, self.step, self.seed, self.cond_lane, self.channels,
        )  # fmt: skip


def make(form: str, shape: tuple[int, int, int]) -> Case:
    generator = torch.Generator().manual_seed(sum(shape))
    channels, *size = shape
    row = torch.zeros(4, len(COLUMNS))
    row[:, COLUMN["s"]] = torch.tensor([0.3, 0.01, 0.0, 0.0])
    row[:, COLUMN["log_var_min"]], row[:, COLUMN["log_var_max"]] = -3.0, -1.0
    row[1, COLUMN["log_var_max"]] = -3.0  # fixed
    row[:, COLUMN["known_signal"]] = torch.tensor([0.9, 0.8, 0.7, 0.0])
    options: dict[str, Any] = {}
    asked = ("learned", "mask", "given noise") if form == "everything" else (form,)
    if "given noise" in asked:
        options["noise"] = torch.randn(6, 4, *shape, generator=generator)
    if "learned" in asked:
        options["learned_variance"] = True
    if form.startswith("mask") or form == "everything":
        masked = (4, channels if form == "mask of every channel" else 1, *size)
        options["mask"] = torch.tensor([0.0, 0.5, 1.0, 1.0])[torch.randint(4, masked, generator=generator)]
    return Case(
        log_prob=torch.full((4, 9), 7.0),
        model_output=torch.randn(6, 2 * channels, *size, generator=generator).clamp(-1, 1),
        row=row,
        step=torch.tensor([4, 0, 2, 8]),
        seed=torch.tensor([7, -3, 2**40, 1]),
        cond_lane=torch.tensor([5, 1, 0, 2]),
        channels=channels,
        options=options,
    )


def oracle(case: Case, sample: int) -> float:
    """Of one sample that adds noise."""
    shape, step = (case.channels, *case.model_output.shape[2:]), case.step[sample : sample + 1]
    z = reference.normal(case.seed[sample : sample + 1], step, STREAM_STEP, shape)[0].double()
    if "noise" in case.options:
        z = case.options["noise"][min(int(step) + 1, 5), sample].double()
    std = torch.full_like(z, float(case.row[sample, COLUMN["s"]]))
    if "learned_variance" in case.options:
        low, high = (float(case.row[sample, COLUMN[name]]) for name in ("log_var_min", "log_var_max"))
        v = case.model_output[case.cond_lane[sample], case.channels :].double()
        std = std * torch.exp(0.5 * (low + (v + 1) / 2 * (high - low)))
    each = torch.distributions.Normal(0.0, std).log_prob(std * z)
    mask = case.options.get("mask")
    counted = each if mask is None else each[(mask[sample] == 1).expand_as(each)]
    return math.fsum(counted.flatten().tolist())


def judge(found: Tensor, case: Case, limit: float, spread: float = 0.0) -> None:
    """Relative to the number, or to how far such numbers lie apart."""
    rows = case.step.tolist()
    for sample in (0, 1):
        exact = oracle(case, sample)
        error = abs(float(found[sample, rows[sample]]) - exact) / max(abs(exact), spread, 1e-30)
        print(f"log p {exact:.6g}, relative error {error:.1e}")
        assert error <= limit or exact == found[sample, rows[sample]] == 0
    for sample in (2, 3):
        assert found[sample, rows[sample]].isnan()
    untouched = torch.ones_like(found, dtype=torch.bool)
    untouched[range(4), rows] = False
    assert (found[untouched] == 7).all()


@pytest.mark.parametrize("shape", [shape for shape, _ in SHAPES.values()], ids=SHAPES.keys())
@pytest.mark.parametrize("form", FORMS)
def test_the_twin_is_the_density_of_what_is_drawn(form: str, shape: tuple[int, int, int]) -> None:
    case = make(form, shape)
    reference.step_log_prob(*case.arguments(), **case.options)
    judge(case.log_prob, case, 2e-7)


@pytest.fixture(params=KERNEL_DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "block"), SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("form", FORMS)
def test_the_kernel_is_within_1e_5_of_float64(
    device: str, form: str, shape: tuple[int, int, int], block: int | None
) -> None:
    case = make(form, shape)
    there = case.on(device)
    step_log_prob_launch(*there.arguments(), **there.options, block=block).run()
    judge(there.log_prob.cpu(), case, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 64, 64), (3, 256, 256)], ids=["64x64 latents", "256x256 pixels"])
def test_a_sum_that_cancels_keeps_its_digits(device: str, shape: tuple[int, int, int]) -> None:
    """At std = exp(-1/2) / sqrt(2 pi) the log-density of an element is 0 on average, and that of n +-sqrt(n / 2)."""
    case = make("by seed", shape)
    case.row[:2, COLUMN["s"]] = math.exp(-0.5) / math.sqrt(2 * math.pi)
    assert abs(oracle(case, 0)) < math.prod(shape) / 50
    there = case.on(device)
    fused.step_log_prob(*there.arguments())
    judge(there.log_prob.cpu(), case, 1e-5, spread=math.sqrt(math.prod(shape) / 2))


@pytest.mark.slow
def test_a_sample_has_its_bits_alone_and_again(device: str) -> None:
    case = make("everything", (2, 63, 21)).on(device)
    first, again, alone = case.log_prob, case.log_prob.clone(), case.log_prob[1:2].clone()
    for into in (first, again):
        fused.step_log_prob(into, *case.arguments()[1:], **case.options)
    one = (case.model_output, *(each[1:2].clone() for each in (case.row, case.step, case.seed, case.cond_lane)), 2)
    own = {
        "noise": case.options["noise"][:, 1:2].clone(), "mask": case.options["mask"][1:2].clone(),
        "learned_variance": True,
    }  # fmt: skip
    fused.step_log_prob(alone, *one, **own)
    torch.testing.assert_close(first, again, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(first[1, 0], alone[0, 0])

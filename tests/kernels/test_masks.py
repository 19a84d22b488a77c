"""A zero coefficient masks its operand, in every op, in every implementation: NaN and infinity change no bit.

Each case is the columns that are set, and the operand that then weighs nothing. They are set in one sample of three or
in all, since a CPU looks at which rows have a 0.
"""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fewstep_kernels import COLUMN, IDLE_ROW, StepOperands, fused, posterior_update, reference
from fewstep_kernels.fused.statistics import step_statistics_launch
from fewstep_kernels.fused.step import denoise_step_launch
from fewstep_kernels.host import HostStep
from support.step_case import Case, cast, make_case

SHAPE = (2, 3, 5)
POISON = (float("nan"), float("inf"), -float("inf"))
SMALL_BLOCKS = SimpleNamespace(  # of elements, which Triton's interpreter takes one by one
    denoise_step=lambda operands: denoise_step_launch(operands, 32).run(),
    step_statistics=lambda *arguments: step_statistics_launch(*arguments, block=32).run(),
    posterior_update=fused.posterior_update,
    cfg_combine=fused.cfg_combine,
    add_noise=fused.add_noise,
)
FORMS = {
    "twin, one sample": (reference, [1]),
    "twin, all samples": (reference, [0, 1, 2]),
    "on a CPU, one sample": (HostStep(), [1]),
    "on a CPU, all samples": (HostStep(), [0, 1, 2]),
    "fused": (SMALL_BLOCKS, [1]),
}


def poisoned(tensor: Tensor) -> Tensor:
    """As large, and full of what is not finite."""
    values = torch.tensor(POISON, dtype=tensor.dtype, device=tensor.device)
    return values[torch.arange(tensor.numel(), device=tensor.device) % 3].view(tensor.shape)


Where = Callable[[Case, Tensor, int], tuple[Tensor, Any]]
"""The tensor of an operand, and the part of it that belongs to a sample."""


def own(name: str) -> Where:
    return lambda case, noise, b: (getattr(case, name), b)


def m(case: Case, noise: Tensor, b: int) -> tuple[Tensor, Any]:
    return case.model_output, ([int(case.cond_lane[b]), int(case.uncond_lane[b])], slice(2))


def cond(case: Case, noise: Tensor, b: int) -> tuple[Tensor, Any]:
    return case.model_output, (int(case.cond_lane[b]), slice(2))


def uncond(case: Case, noise: Tensor, b: int) -> tuple[Tensor, Any]:
    return case.model_output, (int(case.uncond_lane[b]), slice(2))


def v(case: Case, noise: Tensor, b: int) -> tuple[Tensor, Any]:
    return case.model_output, (int(case.cond_lane[b]), slice(2, None))


def past(case: Case, noise: Tensor, b: int) -> tuple[Tensor, Any]:
    return case.history, ((int(case.step[b]) - 2) % 4, b)


def z(case: Case, noise: Tensor, b: int) -> tuple[Tensor, Any]:
    return noise, (min(int(case.step[b]) + 1, 7), b)


def first_z(case: Case, noise: Tensor, b: int) -> tuple[Tensor, Any]:
    return noise, (0, b)


class Masked(NamedTuple):
    """What is set, what then weighs nothing, and what is written without it."""

    columns: dict[str, float]
    operand: Where
    written: tuple[str, ...] = ("x", "x_in", "preview", "history")
    mask: float | None = None
    plain: bool = False  # neither history, gradient, known region nor learned variance


STEP = {
    "x": Masked({"k_x": 0, "a": 0, "h_x": 0}, own("x"), plain=True),
    "m": Masked({"k_m": 0, "e": 0, "h_m": 0}, m, plain=True),
    "x_0 in the update": Masked({"a": 0, "b": 0, "h_x": 0, "h_0": 0}, own("x"), ("x", "x_in", "history"), plain=True),
    "m in the update": Masked({"b": 0, "e": 0}, m, ("x", "x_in"), plain=True),
    "given noise": Masked({"s": 0}, z, plain=True),
    "the next input": Masked({"c_in_next": 0, "k_x": 0}, own("x"), ("x_in", "preview"), plain=True),
    "a learned variance without noise": Masked({"s": 0}, v),
    "a variance that is not learned": Masked({"log_var_min": 0, "log_var_max": 0}, v),
    "a past value": Masked({"c_2": 0}, past, ("x", "x_in", "preview")),
    "a gradient": Masked({"g": 0}, own("gradient")),
    "the unconditional half": Masked({"w": 1}, uncond),
    "the conditional half": Masked({"w": 0}, cond),
    "a known image": Masked({"known_signal": 0}, own("known")),
    "a mask": Masked({"known_signal": 0}, own("mask")),
    "the noise of a known image": Masked({"known_noise": 0, "known_fresh": 0}, first_z),
    "a known image where all is generated": Masked({}, own("known"), mask=1.0),
    "x where all is known": Masked({"k_x": 0}, own("x"), ("x", "x_in", "preview"), mask=0.0),
}


def denoised(module: Any, case: Case, noise: Tensor, plain: bool) -> dict[str, Tensor]:
    operands = StepOperands(
        case.x, case.x_in, None if plain else case.history, case.preview, case.model_output, case.row, case.step,
        case.seed, case.cond_lane, case.uncond_lane, noise=noise,
    )  # fmt: skip
    given = {"gradient": case.gradient, "known": case.known, "mask": case.mask, "learned_variance": True}
    module.denoise_step(operands if plain else operands._replace(**given))
    return {name: getattr(case, name) for name in ("x", "x_in", "preview", "history")}


def prepare(masked: Masked, samples: list[int]) -> tuple[Case, Tensor]:
    case = make_case(SHAPE, learned=not masked.plain)
    case.row[:, COLUMN["known_fresh"]] = 0
    case.row[:, COLUMN["w"]] = 2.5
    case.cond_lane, case.uncond_lane = torch.tensor([0, 3, 1]), torch.tensor([4, 3, 2])
    if masked.plain:
        case.model_output, case.x_in = case.model_output[:3], case.x_in[:3]
        case.cond_lane = case.uncond_lane = torch.arange(3)
        case.step.fill_(2)
    else:
        case.model_output = torch.cat([case.model_output, case.model_output[:1]])
        case.x_in = torch.cat([case.x_in, case.x_in[:1]])
        case.uncond_lane = torch.tensor([4, 5, 2])
    for name, value in masked.columns.items():
        case.row[samples, COLUMN[name]] = value
    if masked.mask is not None:
        case.mask[samples] = masked.mask
    noise = torch.randn(8, 3, *SHAPE, generator=torch.Generator().manual_seed(4))
    return cast(case, torch.float32, "cpu"), noise


@pytest.mark.parametrize("name", STEP)
@pytest.mark.parametrize(("module", "samples"), FORMS.values(), ids=FORMS)
def test_a_zero_coefficient_masks_its_operand_in_a_step(module: Any, samples: list[int], name: str) -> None:
    masked = STEP[name]
    case, noise = prepare(masked, samples)
    other, other_noise = copy.deepcopy((case, noise))
    for b in samples:
        tensor, part = masked.operand(other, other_noise, b)
        tensor[part] = poisoned(tensor[part])
    wanted, got = denoised(module, case, noise, masked.plain), denoised(module, other, other_noise, masked.plain)
    for written in masked.written:
        assert torch.isfinite(wanted[written]).all(), written
        assert torch.equal(got[written], wanted[written]), written


COMBINED = {"the unconditional half": (1.0, 1), "the conditional half": (0.0, 0)}
UPDATED = {"x": ("a", 0), "x_0": ("b", 1), "m": ("e", 2), "z": ("s", 3), "v": ("s", 4)}


@pytest.mark.parametrize("module", [reference, SMALL_BLOCKS], ids=["twin", "fused"])
def test_a_zero_coefficient_masks_its_operand_in_every_other_op(module: Any) -> None:
    case = cast(make_case(SHAPE), torch.float32, "cpu")
    tensors = [torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]

    def agree(call: Callable[..., Tensor], operands: list[Tensor], which: int) -> None:
        other = list(operands)
        other[which] = torch.cat([operands[which][:1], poisoned(operands[which][1:2]), operands[which][2:]])
        wanted, got = call(*operands), call(*other)
        assert torch.isfinite(wanted).all()
        assert torch.equal(got, wanted)

    for name, which in UPDATED.values():
        row = case.row.clone()
        row[1, COLUMN[name]] = 0
        agree(lambda x, x_0, m, z, v, row=row: module.posterior_update(x, x_0, m, row, z, v), tensors, which)
    row = case.row.clone()
    row[1, [COLUMN["log_var_min"], COLUMN["log_var_max"]]] = 0
    agree(lambda x, x_0, m, z, v: module.posterior_update(x, x_0, m, row, z, v), tensors, 4)
    for w, which in COMBINED.values():
        for phi in (0.0, 0.7):
            scales, shares = torch.tensor([2.0, w, 3.0]), torch.full((3,), phi)
            agree(lambda *halves, s=scales, p=shares: module.cfg_combine(*halves, s, p), tensors[:2], which)
    one, zero = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.5, 0.0, 0.5])
    agree(lambda x_0, noise: module.add_noise(x_0, zero, one, noise), tensors[:2], 0)
    agree(lambda x_0, noise: module.add_noise(x_0, one, zero, noise), tensors[:2], 1)


@pytest.mark.parametrize("module", [reference, SMALL_BLOCKS], ids=["twin", "fused"])
def test_a_zero_coefficient_masks_its_operand_in_the_statistics(module: Any) -> None:
    """x in the first sample, m in the second and the gradient in the third weigh nothing."""
    row = cast(make_case((1, 2, 2)), torch.float32, "cpu").row
    row[:, COLUMN["clip_ratio"]] = 0.9
    row[[0, 1, 2], [COLUMN[name] for name in ("k_x", "k_m", "g")]] = 0
    lanes, random = torch.arange(3), torch.Generator().manual_seed(0)
    x, gradient, m = (torch.randn(count, 1, 2, 2, generator=random) for count in (3, 3, 6))
    found = []
    for change in (torch.Tensor.clone, poisoned):
        x[0], m[[1, 4]], gradient[2] = change(x[0]), change(m[[1, 4]]), change(gradient[2])
        statistics = torch.full((3, 2), float("nan"))
        module.step_statistics(statistics, x, m, row, lanes, lanes + 3, gradient)
        found.append(statistics)
    assert torch.isfinite(found[0]).all()
    assert torch.equal(found[1], found[0])


def test_an_idle_slot_stays_as_it_is_whatever_the_network_says() -> None:
    one, nan = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), float("nan"))
    assert posterior_update(one, nan, nan, torch.tensor(IDLE_ROW)[None]).item() == 1
    assert posterior_update(one, nan, nan, torch.tensor(IDLE_ROW)[None], nan, nan).item() == 1

"""The step on a CPU is the twins' to the bit, whatever it looks at and whatever it leaves out."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fewstep_kernels import COLUMN, COLUMNS, StepOperands, reference
from fewstep_kernels.host import HostStep, _zeros
from fewstep_kernels.terms import Columns
from support.small import small_engine
from support.step_case import Case, make_case

VIEWS = {"expand", "select", "slice", "unbind", "unsqueeze", "view"}


def alone(case: Case) -> Case:
    """Each sample owns one lane, in order, and all stand at one row of their plans, which differ."""
    case.x, case.preview, case.row = case.x.float(), case.preview.float(), case.row.float()
    case.model_output, case.x_in = case.model_output[:3].float(), case.x_in[:3].float()
    case.cond_lane = case.uncond_lane = torch.arange(3)
    case.step = torch.full((3,), 2)
    case.row[:, COLUMN["clip"]] = float("inf")
    return case


def noise() -> Tensor:
    return torch.randn(5, 3, 2, 7, 5, generator=torch.Generator().manual_seed(4))


def clipped(case: Case) -> None:
    case.row[1, COLUMN["clip"]] = 0.1


def past_the_end(case: Case) -> None:
    case.step.fill_(5)


def bfloat16(case: Case) -> None:
    last = torch.channels_last
    case.model_output, case.x_in = (each.bfloat16().to(memory_format=last) for each in (case.model_output, case.x_in))


def poisoned(case: Case) -> None:
    case.x[1, 0] = float("nan")


def at_different_rows(case: Case) -> None:
    case.step = torch.tensor([2, 3, 2])


def out_of_order(case: Case) -> None:
    case.cond_lane = case.uncond_lane = torch.tensor([1, 0, 2])


def guided(case: Case) -> None:
    case.model_output = torch.randn(5, *case.x.shape[1:], generator=torch.Generator().manual_seed(3))
    case.x_in, case.uncond_lane = torch.zeros(5, *case.x.shape[1:]), torch.tensor([4, 3, 2])


def two_of_four_past(case: Case) -> None:
    """One coefficient is 0 in every row, one in some; what is kept is x_0 alone, or m alone, or nothing."""
    case.row[:, [COLUMN[name] for name in ("c_2", "c_4", "h_x")]] = 0
    case.row[0, COLUMN["c_3"]] = case.row[0, COLUMN["h_m"]] = case.row[1, COLUMN["h_0"]] = 0
    case.row[2, [COLUMN["h_0"], COLUMN["h_m"]]] = 0
    case.history[:, 0, 1] = float("nan")
    case.row[0, [COLUMN["c_1"], COLUMN["c_3"]]] = 0


def nothing_past(case: Case) -> None:
    case.row[:, [COLUMN[f"c_{j}"] for j in range(1, 5)]] = 0
    case.history.fill_(float("nan"))


def just_begun(case: Case) -> None:
    case.step.fill_(1)


def with_more_channels(case: Case) -> None:
    case.x_in = torch.zeros(3, 4, *case.x.shape[2:])


Change = Callable[[Case], None]
FORMS: dict[str, tuple[Change | None, tuple[str, ...]]] = {
    "DDIM": (None, ("deterministic",)),
    "DDPM": (None, ("noise",)),
    "a clip in one sample": (clipped, ("deterministic",)),
    "a callback": (clipped, ("preview", "noise")),
    "past the last noise": (past_the_end, ("noise",)),
    "bfloat16, channels last": (bfloat16, ("noise",)),
    "a NaN": (poisoned, ("noise",)),
    "history": (None, ("history", "deterministic")),
    "history, some coefficients 0": (two_of_four_past, ("history", "noise", "preview")),
    "history, and nobody looks back": (nothing_past, ("history", "deterministic")),
    "history, just begun": (just_begun, ("history", "deterministic")),
    "rows of their own": (at_different_rows, ("noise",)),
    "lanes out of order": (out_of_order, ("noise",)),
    "guided": (guided, ("noise",)),
    "input channels behind": (with_more_channels, ("deterministic",)),
    "noise by seed": (None, ()),
    "history at rows of their own": (at_different_rows, ("history", "deterministic")),
    "statistics": (None, ("statistics", "deterministic")),
    "gradient": (None, ("gradient", "deterministic")),
    "inpainting": (None, ("known", "noise")),
    "learned variance": (None, ("learned", "noise")),
    "learned variance that the plan ignores": (None, ("ignored", "noise")),
}
TWINS = list(FORMS)[list(FORMS).index("lanes out of order") :]  # left to the twin


def denoised(module: Any, case: Case, asked: tuple[str, ...]) -> dict[str, Tensor]:
    """What one implementation writes, given a copy."""
    case = copy.deepcopy(case)
    if "preview" not in asked:
        case.preview = None  # type: ignore[assignment]
    history = case.history.float() if "history" in asked else None
    known = {"known": case.known.float(), "mask": case.mask.float()} if "known" in asked else {}
    operands = StepOperands(
        case.x, case.x_in, history, case.preview, case.model_output, case.row, case.step, case.seed,
        case.cond_lane, case.uncond_lane,
        statistics=torch.tensor([[1.0, 0.0], [0.7, 0.0], [1.1, 0.0]]) if "statistics" in asked else None,
        noise=noise() if "noise" in asked else None,
        gradient=case.gradient.float() if "gradient" in asked else None,
        learned_variance="learned" in asked, stochastic="deterministic" not in asked, **known,
    )  # fmt: skip
    module.denoise_step(operands)
    written = {"x": case.x, "x_in": case.x_in, "preview": case.preview, "history": history}
    return {name: tensor for name, tensor in written.items() if tensor is not None}


@pytest.mark.parametrize("form", FORMS)
def test_denoise_step_is_the_twins_to_the_bit(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, asked = FORMS[form]
    case = alone(make_case((2, 7, 5), learned=bool({"learned", "ignored"} & {*asked})))
    if change is not None:
        change(case)
    wanted = denoised(reference, case, asked)
    twin, called = reference.denoise_step, []
    monkeypatch.setattr(reference, "denoise_step", lambda *a, **k: (called.append(1), twin(*a, **k)))
    for name, got in denoised(HostStep(), case, asked).items():
        torch.testing.assert_close(got, wanted[name], rtol=0, atol=0, equal_nan=True)
        assert not torch.equal(got, getattr(case, name).to(got.dtype)), name  # it was written
    assert bool(called) == (form in TWINS or form == "rows of their own")


ORDERS = {
    "in order": ([0, 1, 2], [0, 1, 2], 3),
    "swapped": ([1, 0, 2], [1, 0, 2], 3),
    "guided": ([0, 1, 2], [3, 1, 4], 5),
}


@pytest.mark.parametrize("second_time", [False, True], ids=["t alone", "t and r"])
@pytest.mark.parametrize("at", [[0, 0, 0], [3, 3, 3], [7, 7, 7], [0, 2, 3]], ids=["first", "idle", "beyond", "mixed"])
@pytest.mark.parametrize(("cond_lane", "uncond_lane", "rows"), ORDERS.values(), ids=ORDERS.keys())
def test_begin_step_is_the_twins_to_the_bit(
    at: list[int], cond_lane: list[int], uncond_lane: list[int], rows: int, second_time: bool
) -> None:
    table = torch.randn(3, 4, len(COLUMNS), generator=torch.Generator().manual_seed(0))
    wanted, got = (
        [
            table, torch.tensor(at), torch.zeros(3, len(COLUMNS)), torch.full((3,), -1), torch.zeros(rows),
            torch.tensor(cond_lane), torch.tensor(uncond_lane), *([torch.zeros(rows)] if second_time else []),
        ]
        for _ in range(2)
    )  # fmt: skip
    host = HostStep()
    for _ in range(5):
        reference.begin_step(*wanted)
        host.begin_step(*got)
        for mine, theirs in zip(got, wanted, strict=True):
            assert torch.equal(mine, theirs)


class Ops(TorchDispatchMode):
    """The names of the ops dispatched within it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name().split("::")[1].split(".")[0])
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(engine: Any) -> Iterator[Ops]:
    """The ops of an engine's loop, but those of its network."""
    prepare, ops = engine._runner.prepare, Ops()

    def prepared(denoiser: Any, *arguments: Any, **named: Any) -> Any:
        def outside(*given: Any) -> Tensor:
            before = len(ops.names)
            m: Tensor = denoiser.predict(*given)
            del ops.names[before:]
            return m

        run = prepare(SimpleNamespace(predict=outside), *arguments, **named)
        advance = run.advance

        def within(steps: int) -> None:
            with ops:
                advance(steps)

        vars(run)["advance"] = within
        return run

    vars(engine._runner)["prepare"] = prepared
    yield ops


@pytest.mark.parametrize(
    ("sampler", "clip", "computing", "views"),
    [("ddim", None, 29, 2), ("ddpm", None, 29, 6), ("ddim", 1.0, 41, 2)],
    ids=["ddim", "ddpm", "ddim, clipped"],
)
def test_a_step_of_the_engine_on_a_cpu_is_this_many_ops(
    sampler: str, clip: float | None, computing: int, views: int
) -> None:
    """Each costs 3 to 20 us between two calls of a U-Net: with the twins, 17 and 8 for DDIM, 23 and 9 for DDPM."""
    engine = small_engine(device="cpu", runner="eager")
    with counted(engine) as ops:
        engine.sample(labels=[1, 2], seeds=0, plan=engine.plan(4, sampler, clip=clip))
    found = len([name for name in ops.names if name in VIEWS])
    assert (len(ops.names) - found, found) == (computing, views)


def test_an_update_that_looks_back_at_one_x_0_is_half_the_ops() -> None:
    """As of DPM-Solver++ 2M without its last row; the twin is told as well which coefficients are 0."""
    case = alone(make_case((2, 7, 5), depth=2))
    kept = [COLUMN[name] for name in ("c_in_next", "k_x", "k_m", "a", "b", "c_1", "h_0", "clip", "w")]
    case.row[:, [i for i in range(len(COLUMNS)) if i not in kept]] = 0
    zeros, absent = _zeros(case.row.tolist(), COLUMNS)

    def twin(operands: StepOperands) -> None:
        reference.denoise_step(operands, Columns.of(operands.row, zeros, absent))

    counts = []
    for module in (HostStep(), SimpleNamespace(denoise_step=twin)):
        with Ops() as ops:
            denoised(module, case, ("history", "deterministic"))
        counts.append(len(ops.names))
    with Ops() as around:
        denoised(SimpleNamespace(denoise_step=lambda operands: None), case, ("history", "deterministic"))
    assert [count - len(around.names) for count in counts] == [19, 34]

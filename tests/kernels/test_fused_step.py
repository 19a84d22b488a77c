"""The Triton kernels of a step against the float64 twin: every flag, ragged shapes, outputs full of NaN beforehand.

Without a GPU they run in Triton's interpreter; with one, `-m gpu` runs the same tests through its compiler.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep_kernels import (
    COLUMN,
    IDLE_ROW,
    STREAM_INITIAL,
    STREAM_KNOWN,
    STREAM_STEP,
    StepOperands,
    fused,
    reference,
)
from fewstep_kernels.fused.statistics import step_statistics_launch
from fewstep_kernels.fused.step import denoise_step_launch
from support.devices import KERNEL_DEVICES
from support.step_case import Case, cast, make_case

pytestmark = pytest.mark.slow

# A sample's shape, and the elements of a program: fewer than there are on a GPU, and a small sample has several.
SHAPES = {
    "one element": ((1, 1, 1), 512),
    "9x7, a ragged second tile": ((2, 9, 7), 64),
    "channels that vectorise": ((4, 4, 4), 64),
}
Options = dict[str, Any]
Step = Callable[[StepOperands], None]


@pytest.fixture(params=KERNEL_DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def random(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def denoise(step: Callable[..., None], case: Case, options: Options) -> dict[str, Tensor]:
    """Run one implementation on its own copy; the options name tensors of the case or are given as they are."""
    given = {name: getattr(case, name) if value is case else value for name, value in options.items()}
    history, preview = given.pop("history", case.history), given.pop("preview", case.preview)
    operands = StepOperands(
        case.x, case.x_in, history, preview, case.model_output, case.row, case.step, case.seed,
        case.cond_lane, case.uncond_lane,
    )  # fmt: skip
    step(operands._replace(**given))
    written = {"x": case.x, "x_in": case.x_in, "history": history, "preview": preview}
    return {name: tensor for name, tensor in written.items() if tensor is not None}


def assert_as_good(name: str, ours: Tensor, theirs: Tensor, exact: Tensor) -> None:
    """At most twice the error of the float32 twin against float64, plus one eps."""
    my_error, their_error = ((each.double() - exact).abs().nan_to_num(0).max().item() for each in (ours, theirs))
    print(f"{name}: ours {my_error:.2e}, twin {their_error:.2e}")
    assert torch.equal(ours.isnan(), exact.isnan()), name
    eps = torch.finfo(torch.float32).eps
    assert my_error <= 2 * their_error + eps * max(1.0, exact.nan_to_num(0).abs().max().item()), name


FORMS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "one lane a sample": ("one lane",),
    "deterministic": ("deterministic",),
    "learned variance": ("learned",),
    "no history": ("depth 0",),
    "history of one": ("depth 1",),
    "history of two": ("depth 2",),
    "history of three": ("depth 3",),
    "history of four": ("depth 4",),
    "history of five": ("depth 5",),
    "no preview": ("no preview",),
    "statistics": ("statistics",),
    "gradient": ("gradient",),
    "given noise": ("noise",),
    "inpainting": ("known",),
    "inpainting, a mask of every channel": ("known", "wide mask"),
    "inpainting, deterministic": ("known", "deterministic"),
    "inpainting, given noise": ("known", "noise"),
    "everything": ("learned", "statistics", "gradient", "known"),
    "everything, given noise": ("learned", "statistics", "gradient", "known", "noise"),
}


def build(form: Iterable[str], shape: tuple[int, int, int]) -> tuple[Case, Callable[[Case], Options]]:
    """A case in float64, and the options of a call on a copy of it."""
    asked = set(form)
    depth = next((int(name[6:]) for name in asked if name.startswith("depth")), 4)
    case = make_case(shape, learned="learned" in asked, depth=depth)
    if depth < 4:
        case.row[:, [COLUMN[f"c_{j}"] for j in range(depth + 1, 5)]] = 0
    if "one lane" in asked:
        case.model_output, case.x_in = case.model_output[:3], case.x_in[:3]
        case.cond_lane = case.uncond_lane = torch.tensor([1, 0, 2])
    if "deterministic" in asked:
        case.row[:, [COLUMN["s"], COLUMN["known_fresh"]]] = 0
    if "wide mask" in asked:
        case.mask = random(3, *shape, seed=3).sigmoid().double()
    if "statistics" in asked:
        case.row[:, COLUMN["clip_ratio"]] = torch.tensor([0.0, 0.9, 0.5])
        case.row[1, COLUMN["clip"]] = 0.5  # a threshold is never less than 1
    statistics = torch.tensor([[1.0, float("nan")], [0.7, 1.3], [1.1, 0.4]])
    noise = random(8, 3, *shape, seed=4)

    def options(copy: Case) -> Options:
        like = copy.x
        chosen: Options = {name: getattr(copy, name) for name in ("gradient",) if name in asked}
        if "known" in asked:
            chosen |= {"known": copy.known, "mask": copy.mask}
        if "statistics" in asked:
            chosen["statistics"] = statistics.to(like)
        if "noise" in asked:
            chosen["noise"] = noise.to(like)
        if depth == 0:
            chosen["history"] = None
        if "no preview" in asked:
            chosen["preview"] = None
        return chosen | {"learned_variance": "learned" in asked, "stochastic": "deterministic" not in asked}

    return case, options


def in_blocks(block: int) -> Step:
    """`denoise_step` with so many elements in a program."""
    return lambda operands: denoise_step_launch(operands, block).run()


@pytest.mark.parametrize(("shape", "block"), SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_denoise_step_is_as_good_as_its_twin(
    device: str, form: tuple[str, ...], shape: tuple[int, int, int], block: int
) -> None:
    judge(in_blocks(block), device, form, shape)


@pytest.mark.parametrize("form", ["everything", "everything, given noise"])
def test_denoise_step_is_as_good_as_its_twin_in_blocks_as_on_a_gpu(device: str, form: str) -> None:
    judge(fused.denoise_step, device, FORMS[form], (2, 63, 21))


def judge(step: Step, device: str, form: tuple[str, ...], shape: tuple[int, int, int]) -> None:
    """Everything that a step writes against the twin, in float32 and in float64."""
    case, options = build(form, shape)
    ours, theirs, exact = (cast(case, dtype, device) for dtype in (torch.float32, torch.float32, torch.float64))
    mine = denoise(step, ours, options(ours))
    twins = denoise(reference.denoise_step, theirs, options(theirs))
    truth = denoise(reference.denoise_step, exact, options(exact))
    for name, tensor in mine.items():
        assert_as_good(name, tensor, twins[name], truth[name])


def contiguous(tensor: Tensor) -> Tensor:
    return tensor


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last)


def between_others(tensor: Tensor) -> Tensor:
    """A view into a tensor that is larger in every dimension."""
    rows, channels, height, width = tensor.shape
    room = torch.full((rows, channels + 3, height + 2, width + 1), float("nan"), dtype=tensor.dtype)
    room[:, :channels, 1:-1, :-1] = tensor
    return room[:, :channels, 1:-1, :-1]


@pytest.mark.parametrize("layout", [contiguous, channels_last, between_others], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_any_layout_and_dtype_of_the_network_gives_the_same_bits(
    device: str, dtype: torch.dtype, layout: Callable[[Tensor], Tensor]
) -> None:
    case, options = build(FORMS["everything"], (2, 9, 7))
    case.model_output = case.model_output.to(dtype).double()
    plain, other = cast(case, torch.float32, device), cast(case, torch.float32, device)
    other.model_output = layout(other.model_output.cpu().to(dtype)).to(device)
    other.x_in, other.gradient = (layout(each.cpu()).to(device) for each in (other.x_in, other.gradient))
    other.x_in = other.x_in.to(dtype)
    wanted = denoise(in_blocks(64), plain, options(plain))
    got = denoise(in_blocks(64), other, options(other))
    for name in ("x", "history", "preview"):
        assert torch.equal(got[name], wanted[name])
    # The interpreter truncates to bfloat16 where a GPU rounds.
    places = 1 if device == "cpu" and dtype == torch.bfloat16 else 0
    apart = got["x_in"].float() - wanted["x_in"].to(dtype).float()
    assert (apart.abs() <= places * torch.finfo(dtype).eps * wanted["x_in"].abs()).all()


def test_extra_input_channels_are_left_alone(device: str) -> None:
    case = cast(make_case((2, 3, 5)), torch.float32, device)
    case.x_in = torch.full((5, 7, 3, 5), 9.0, device=device).to(memory_format=torch.channels_last)
    denoise(fused.denoise_step, case, {})
    assert (case.x_in[:, 2:] == 9).all()
    assert (case.x_in[:, :2] != 9).all()


def test_zero_coefficients_mask_what_a_slot_left_behind(device: str) -> None:
    """NaN in all that a coefficient of 0 multiplies: history, a half, gradient, known image, variance, given noise."""
    case = make_case((2, 3, 5), learned=True)
    case.row[:, [COLUMN[name] for name in ("c_1", "c_2", "c_3", "c_4", "g", "known_signal", "s")]] = 0
    case.row[:, COLUMN["w"]] = torch.tensor([1.0, 1.0, 0.0])
    for stale in (case.history, case.gradient, case.known, case.mask, case.model_output[:, 2:]):
        stale.fill_(float("nan"))
    case.model_output[[int(case.uncond_lane[0]), int(case.cond_lane[2])]] = float("nan")
    case = cast(case, torch.float32, device)
    noise = torch.full((7, 3, 2, 3, 5), float("nan"), device=device)
    given = {"gradient": case.gradient, "known": case.known, "mask": case.mask, "noise": noise}
    denoise(fused.denoise_step, case, given | {"learned_variance": True})
    for written in (case.x, case.x_in, case.preview):
        assert torch.isfinite(written).all()


def test_a_nan_stays_in_its_sample(device: str) -> None:
    case, poisoned = (cast(make_case((2, 3, 5)), torch.float32, device) for _ in range(2))
    poisoned.x[1] = float("nan")
    for each in (case, poisoned):
        denoise(fused.denoise_step, each, {})
    assert torch.isnan(poisoned.x[1]).all()
    assert torch.equal(case.x[[0, 2]], poisoned.x[[0, 2]])


def test_the_idle_row_changes_nothing(device: str) -> None:
    """Idle slots may share one lane."""
    case = make_case((2, 3, 5))
    case.row = torch.tensor(IDLE_ROW, dtype=torch.float64).expand(3, -1).clone()
    case.cond_lane = case.uncond_lane = torch.tensor([0, 4, 4])
    case = cast(case, torch.float32, device)
    before = case.x.clone()
    denoise(fused.denoise_step, case, {"known": case.known, "mask": case.mask})
    assert torch.equal(case.x, before)
    assert torch.equal(case.x_in[0], before[0])


def test_a_sample_is_the_same_bits_alone_in_any_slot_and_beside_any_flag(device: str) -> None:
    """Batch mates may bring history, statistics, a gradient or a known region: another variant of the kernel."""
    case = make_case((2, 21, 13))
    off = [COLUMN[name] for name in ("c_1", "c_2", "c_3", "c_4", "g", "known_signal")]
    case.row[1, off] = 0
    together = cast(case, torch.float32, device)
    alone = cast(case, torch.float32, device)
    everything, options = {"gradient": together.gradient, "known": together.known, "mask": together.mask}, {}
    alone.x, alone.preview = alone.x[1:2].clone(), alone.preview[1:2].clone()
    for name in ("row", "step", "seed", "cond_lane", "uncond_lane"):
        setattr(alone, name, getattr(alone, name)[1:2].clone())
    statistics = torch.ones(3, 2, device=device)
    denoise(fused.denoise_step, together, everything | {"statistics": statistics})
    denoise(fused.denoise_step, alone, options | {"history": None})
    assert torch.equal(together.x[1], alone.x[0])
    assert torch.equal(together.preview[1], alone.preview[0])


def test_the_named_kernels_composed_are_the_fused_pass(device: str) -> None:
    """Bit for bit: every formula is rounded by itself, whoever computes it."""
    case, options = build(("known", "statistics"), (2, 21, 13))
    case.row[:, [COLUMN[f"c_{j}"] for j in range(1, 5)]] = 0
    case.row[:, COLUMN["clip_ratio"]] = 0
    case.row[:, COLUMN["phi"]] = torch.tensor([0.7, 0.0, 0.3])
    case = cast(case, torch.float32, device)
    row, (C, H, W) = case.row, case.x.shape[1:]

    def column(name: str) -> Tensor:
        return row[:, COLUMN[name]]

    def spread(name: str) -> Tensor:
        return column(name)[:, None, None, None]

    statistics = torch.full((3, 2), float("nan"), device=device)
    fused.step_statistics(statistics, case.x, case.model_output, row, case.cond_lane, case.uncond_lane)
    halves = (case.model_output[rows] for rows in (case.cond_lane, case.uncond_lane))
    m = fused.cfg_combine(*halves, column("w"), column("phi"))
    x_0 = (spread("k_x") * case.x + spread("k_m") * m).clamp(-spread("clip"), spread("clip"))
    z = fused.normal(case.seed, case.step, STREAM_STEP, (C, H, W))
    x = fused.posterior_update(case.x, x_0, m, row, z)
    initial = fused.normal(case.seed, torch.zeros_like(case.step), STREAM_INITIAL, (C, H, W))
    fresh = fused.normal(case.seed, case.step, STREAM_KNOWN, (C, H, W))
    z_known = torch.where(spread("known_fresh") == 0, initial, fresh)
    target = fused.add_noise(case.known, column("known_signal"), column("known_noise"), z_known)
    low = target + case.mask * (x - target)
    high = x - (1 - case.mask) * (x - target)
    x = torch.where(case.mask < 0.5, low, high)
    denoise(fused.denoise_step, case, options(case) | {"statistics": statistics})
    assert torch.equal(case.preview, x_0)
    assert torch.equal(case.x, x)


STATISTICS_SHAPES = {"63x21": ((2, 63, 21), None), "9x7, a ragged second tile": ((2, 9, 7), 64)}


@pytest.mark.parametrize(("shape", "block"), STATISTICS_SHAPES.values(), ids=STATISTICS_SHAPES.keys())
@pytest.mark.parametrize("form", ["guided", "one lane", "gradient", "channels-last bfloat16"])
def test_step_statistics_is_as_good_as_its_twin(
    device: str, shape: tuple[int, int, int], block: int | None, form: str
) -> None:
    case = make_case(shape)
    case.row[:, COLUMN["phi"]] = torch.tensor([0.7, 0.0, 0.3])
    case.row[:, COLUMN["clip_ratio"]] = torch.tensor([0.9, 0.995, 0.0])
    if form == "one lane":
        case.model_output, case.cond_lane = case.model_output[:3], torch.tensor([1, 0, 2])
        case.uncond_lane = case.cond_lane
    case.model_output = case.model_output * 3 + 20  # far from centred
    if form == "channels-last bfloat16":
        case.model_output = case.model_output.bfloat16().double()
    given = []
    for dtype in (torch.float32, torch.float32, torch.float64):
        copy = cast(case, dtype, device)
        if form == "channels-last bfloat16":
            copy.model_output = copy.model_output.to(memory_format=torch.channels_last)
        statistics = torch.full((3, 2), float("nan"), dtype=dtype, device=device)
        gradient = copy.gradient if form == "gradient" else None
        given.append((statistics, copy.x, copy.model_output, copy.row, copy.cond_lane, copy.uncond_lane, gradient))
    if form == "channels-last bfloat16":
        given[0] = (*given[0][:2], given[0][2].bfloat16(), *given[0][3:])
    step_statistics_launch(*given[0], block=block).run()
    for arguments in given[1:]:
        reference.step_statistics(*arguments)
    ours, theirs, exact = (arguments[0] for arguments in given)
    assert_as_good("factor", ours[:, 0], theirs[:, 0], exact[:, 0])
    assert_as_good("quantile", ours[:2, 1], theirs[:2, 1], exact[:2, 1])
    if form == "guided":
        again = torch.full_like(ours, float("nan"))
        step_statistics_launch(again, *given[0][1:], block=block).run()
        assert torch.equal(again, ours)


@pytest.mark.filterwarnings("ignore:std")  # the twin's, of one element
@pytest.mark.parametrize("ratio", [1e-6, 0.5, 0.995, 1.0])
@pytest.mark.parametrize("values", ["distinct", "ties", "all equal", "denormal and huge", "one element"])
def test_the_quantile_is_the_twins_bits(device: str, values: str, ratio: float) -> None:
    x = random(1, 2, 17, 13, seed=5)
    x = {
        "distinct": x,
        "ties": (2 * x).round() / 2,
        "all equal": torch.full_like(x, -1.7),
        "denormal and huge": x * 10.0 ** (40 * random(1, 2, 17, 13, seed=6)).clamp(-42, 37),
        "one element": x[:, :1, :1, :1],
    }[values].to(device)
    row = torch.tensor(IDLE_ROW)[None].clone()
    row[:, COLUMN["clip_ratio"]] = ratio
    index = torch.zeros(1, dtype=torch.int64, device=device)
    given = (x.contiguous(), torch.zeros_like(x), row.to(device), index, index)
    ours, theirs = (torch.full((1, 2), float("nan"), device=device) for _ in range(2))
    fused.step_statistics(ours, *given)
    reference.step_statistics(theirs, *given)
    assert torch.equal(ours, theirs)


def test_statistics_that_nobody_asked_for_read_nothing(device: str) -> None:
    """A NaN in an idle slot, or in a gradient that weighs nothing, is not even looked at."""
    case = make_case((2, 3, 5))
    case.row[:, COLUMN["clip_ratio"]] = torch.tensor([0.0, 0.9, 0.0])
    case.row[:, COLUMN["g"]] = 0
    case.model_output[[0, 1, 2, 4]] = float("nan")
    case.gradient.fill_(float("nan"))
    case = cast(case, torch.float32, device)
    statistics = torch.full((3, 2), float("nan"), device=device)
    given = (case.x, case.model_output, case.row, case.cond_lane, case.uncond_lane, case.gradient)
    fused.step_statistics(statistics, *given)
    assert statistics[:, 0].tolist() == [1, 1, 1]
    assert statistics[[0, 2], 1].tolist() == [0, 0]
    assert torch.isfinite(statistics).all()


@pytest.mark.filterwarnings("ignore:std")  # the twin's, of one element
@pytest.mark.parametrize("layout", [contiguous, channels_last, between_others], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 21, 63)], ids=["one element", "63x21"])
def test_cfg_combine_is_as_good_as_its_twin(
    device: str, shape: tuple[int, int, int], layout: Callable[[Tensor], Tensor]
) -> None:
    cond, uncond = (layout(random(4, *shape, seed=seed)).to(device) for seed in (1, 2))
    w = torch.tensor([7.5, 1.0, 0.0, 2.0], device=device)
    phi = torch.tensor([0.7, 0.0, 0.0, 1.0], device=device)
    ours, theirs = (module.cfg_combine(cond, uncond, w, phi) for module in (fused, reference))
    exact = reference.cfg_combine(*(each.double() for each in (cond, uncond, w, phi)))
    assert_as_good("m", ours, theirs, exact)
    assert ours.stride() == torch.empty_like(cond).stride()


def test_cfg_combine_selects_at_zero_and_one(device: str) -> None:
    cond, nan = random(2, 3, 4, 4, seed=1).to(device), torch.full((2, 3, 4, 4), float("nan"), device=device)
    zero, one = torch.zeros(2, device=device), torch.ones(2, device=device)
    assert torch.equal(fused.cfg_combine(cond, nan, one, zero), cond)
    assert torch.equal(fused.cfg_combine(nan, cond, zero, zero), cond)
    cond[0] = float("inf")
    assert torch.equal(fused.cfg_combine(nan, cond, zero, zero), cond)


@pytest.mark.parametrize("noise", ["none", "fixed variance", "learned variance"])
@pytest.mark.parametrize("layout", [contiguous, channels_last, between_others], ids=lambda layout: layout.__name__)
def test_posterior_update_is_as_good_as_its_twin(device: str, layout: Callable[[Tensor], Tensor], noise: str) -> None:
    tensors = [random(3, 3, 21, 43, seed=seed) for seed in range(5)]
    tensors = [tensors[0].to(device), *(layout(each).to(device) for each in tensors[1:4]), tensors[4].tanh().to(device)]
    given = tensors[: {"none": 3, "fixed variance": 4, "learned variance": 5}[noise]]
    row = make_case((1, 1, 1)).row.float().to(device)
    row[1, COLUMN["s"]] = 0
    if len(given) > 3:
        given[3][1] = float("nan")  # masked: nothing is drawn where s is 0

    def apply(module: Any, dtype: torch.dtype) -> Tensor:
        x, x_0, m, *drawn = (each.to(dtype) for each in given)
        if module is reference and drawn:
            drawn[0][1] = 0
        result: Tensor = module.posterior_update(x, x_0, m, row.to(dtype), *drawn)
        return result

    theirs, exact = apply(reference, torch.float32), apply(reference, torch.float64)
    assert_as_good("x'", apply(fused, torch.float32), theirs, exact)


def test_wrong_dtypes_and_layouts_are_refused_by_name(device: str) -> None:
    case = cast(make_case((2, 3, 5)), torch.float32, device)
    with pytest.raises(TypeError, match=r"x: got torch.float64; allowed: float32"):
        denoise(fused.denoise_step, replace(case, x=case.x.double()), {})
    with pytest.raises(TypeError, match=r"model_output: got torch.float64"):
        denoise(fused.denoise_step, replace(case, model_output=case.model_output.double()), {})
    with pytest.raises(ValueError, match=r"history: got strides"):
        denoise(fused.denoise_step, replace(case, history=case.history[::2]), {})
    with pytest.raises(TypeError, match=r"seed: got torch.int32; allowed: int64"):
        denoise(fused.denoise_step, replace(case, seed=case.seed.int()), {})

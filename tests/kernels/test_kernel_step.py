"""The twins of the step against an oracle in float64: every flag, every column, ragged shapes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep_kernels import (
    COLUMN,
    COLUMNS,
    IDLE_ROW,
    STREAM_INITIAL,
    STREAM_KNOWN,
    STREAM_STEP,
    StepOperands,
    add_noise,
    begin_step,
    cfg_combine,
    denoise_step,
    fused,
    normal,
    posterior_update,
    reference,
    step_statistics,
)
from support.step_case import Case, make_case
from support.step_oracle import update_one

SHAPES = {"one element": (1, 1, 1), "a picture": (3, 16, 16), "63x21": (2, 63, 21)}


def run(case: Case, **options: object) -> None:
    operands = StepOperands(
        case.x, case.x_in, case.history, case.preview, case.model_output, case.row, case.step, case.seed,
        case.cond_lane, case.uncond_lane,
    )  # fmt: skip
    denoise_step(operands._replace(**options))


def expected(case: Case, sample: int, **options: np.ndarray) -> dict[str, np.ndarray]:
    shape = case.x.shape[1:]
    seed, step = case.seed[sample : sample + 1], case.step[sample : sample + 1]
    fresh = bool(case.row[sample, COLUMN["known_fresh"]])
    z_known = normal(seed, step if fresh else step * 0, STREAM_KNOWN if fresh else STREAM_INITIAL, shape)
    depth = len(case.history)
    return update_one(
        case.row[sample].numpy(),
        case.x[sample].numpy(),
        case.model_output[case.cond_lane[sample]].numpy(),
        case.model_output[case.uncond_lane[sample]].numpy(),
        normal(seed, step, STREAM_STEP, shape)[0].double().numpy(),
        [case.history[(int(step) - j) % depth, sample].numpy() for j in range(1, depth + 1)],
        z_known=z_known[0].double().numpy(),
        **options,
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("learned", [False, True], ids=["fixed variance", "learned variance"])
@pytest.mark.parametrize("inpaint", [False, True], ids=["whole", "inpainting"])
def test_denoise_step_is_the_formula(shape: tuple[int, int, int], learned: bool, inpaint: bool) -> None:
    case = make_case(shape, learned=learned)
    region = [{"known": case.known[b].numpy(), "mask": case.mask[b].numpy()} if inpaint else {} for b in range(3)]
    wanted = [expected(case, b, gradient=case.gradient[b].numpy(), **region[b]) for b in range(3)]
    given = {"known": case.known, "mask": case.mask} if inpaint else {}
    run(case, learned_variance=learned, gradient=case.gradient, **given)
    for b, want in enumerate(wanted):
        np.testing.assert_allclose(case.x[b], want["x"], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(case.preview[b], want["x_0"], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(case.history[case.step[b] % 4, b], want["kept"], rtol=1e-12, atol=1e-12)
        for row in {int(case.cond_lane[b]), int(case.uncond_lane[b])}:
            np.testing.assert_allclose(case.x_in[row], want["x_in"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_history_is_a_ring_that_keeps_the_youngest(depth: int) -> None:
    case = make_case((2, 3, 5), depth=depth)
    case.row[:, [COLUMN[f"c_{j}"] for j in range(depth + 1, 5)]] = 0
    wanted = [expected(case, b) for b in range(3)]
    before = case.history.clone()
    run(case)
    for b, want in enumerate(wanted):
        np.testing.assert_allclose(case.x[b], want["x"], rtol=1e-12, atol=1e-12)
        changed = [d for d in range(depth) if not torch.equal(before[d, b], case.history[d, b])]
        assert changed == [int(case.step[b]) % depth]


@pytest.mark.parametrize("phi", [0.0, 0.7], ids=["no rescale", "rescale"])
@pytest.mark.parametrize("ratio", [0.0, 0.9], ids=["static clip", "dynamic threshold"])
def test_statistics_rescale_and_threshold(phi: float, ratio: float) -> None:
    case = make_case((3, 16, 16))
    case.row[:, COLUMN["phi"]], case.row[:, COLUMN["clip_ratio"]] = phi, ratio
    case.row[:, COLUMN["k_x"]] = 2.0
    wanted = [expected(case, b) for b in range(3)]
    statistics = torch.full((3, 2), float("nan"), dtype=torch.float64)
    step_statistics(statistics, case.x, case.model_output, case.row, case.cond_lane, case.uncond_lane)
    run(case, statistics=statistics)
    for b, want in enumerate(wanted):
        np.testing.assert_allclose(case.x[b], want["x"], rtol=1e-12, atol=1e-12)


def test_zero_coefficients_mask_what_a_slot_left_behind() -> None:
    """NaN in the history, the other half, the gradient and the known image reach nothing whose coefficient is 0."""
    case = make_case((2, 3, 5))
    case.row[:, [COLUMN[name] for name in ("c_1", "c_2", "c_3", "c_4", "g", "known_signal")]] = 0
    case.row[:, COLUMN["w"]] = torch.tensor([1.0, 1.0, 0.0])
    for stale in (case.history, case.gradient, case.known):
        stale.fill_(float("nan"))
    case.model_output[case.uncond_lane[0]] = float("nan")
    case.model_output[case.cond_lane[2]] = float("nan")
    run(case, gradient=case.gradient, known=case.known, mask=case.mask)
    assert torch.isfinite(case.x).all()
    assert torch.isfinite(case.x_in).all()


def test_a_nan_stays_in_its_sample() -> None:
    case, poisoned = make_case((2, 3, 5)), make_case((2, 3, 5))
    poisoned.x[1] = float("nan")
    run(case)
    run(poisoned)
    assert torch.isnan(poisoned.x[1]).all()
    assert torch.equal(case.x[[0, 2]], poisoned.x[[0, 2]])


def test_given_noise_takes_the_place_of_the_seeds() -> None:
    case = make_case((2, 3, 5))
    noise = torch.randn(7, 3, 2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = []
    for b in range(3):
        args = (case.row[b].numpy(), case.x[b].numpy(), case.model_output[case.cond_lane[b]].numpy())
        past = [case.history[(int(case.step[b]) - j) % 4, b].numpy() for j in range(1, 5)]
        z = noise[case.step[b] + 1, b].numpy()
        wanted.append(update_one(*args, case.model_output[case.uncond_lane[b]].numpy(), z, past)["x"])
    run(case, noise=noise)
    np.testing.assert_allclose(case.x, np.stack(wanted), rtol=1e-12, atol=1e-12)


def test_extra_input_channels_are_left_alone() -> None:
    """A concatenated condition lives in the model input behind the sample's own channels."""
    case = make_case((2, 3, 5))
    case.x_in = torch.full((5, 7, 3, 5), 9.0, dtype=torch.float64)
    run(case)
    assert (case.x_in[:, 2:] == 9).all()
    assert (case.x_in[:, :2] != 9).all()


def test_the_idle_row_changes_nothing() -> None:
    case = make_case((2, 3, 5))
    case.row = torch.tensor(IDLE_ROW, dtype=torch.float64).expand(3, -1)
    before = case.x.clone()
    run(case, known=case.known, mask=case.mask)
    assert torch.equal(case.x, before)
    assert torch.equal(case.x_in[case.cond_lane], before)


def test_begin_step_gathers_each_slots_row_and_stops_at_the_idle_one() -> None:
    table = torch.randn(3, 4, len(COLUMNS), generator=torch.Generator().manual_seed(0))
    index, row, step = (
        torch.tensor([0, 2, 3]),
        torch.zeros(3, len(COLUMNS)),
        torch.zeros(3, dtype=torch.int64),
    )
    t, r = torch.zeros(5), torch.zeros(5)
    cond_lane, uncond_lane = torch.tensor([0, 3, 1]), torch.tensor([4, 3, 2])
    begin_step(table, index, row, step, t, cond_lane, uncond_lane, r)
    assert torch.equal(row, torch.stack([table[0, 0], table[1, 2], table[2, 3]]))
    assert step.tolist() == [0, 2, 3]
    assert index.tolist() == [1, 3, 3]
    for told, name in ((t, "t"), (r, "r")):
        assert torch.equal(told[cond_lane], row[:, COLUMN[name]])
        assert torch.equal(told[uncond_lane], row[:, COLUMN[name]])


def test_bf16_is_rounded_only_where_it_is_stored() -> None:
    """The error of a bf16 model input is the rounding of the float32 result, nothing more."""
    wide, narrow = make_case((3, 16, 16)), make_case((3, 16, 16))
    narrow.model_output = wide.model_output = wide.model_output.bfloat16()
    narrow.x_in = narrow.x_in.bfloat16()
    for case in (wide, narrow):
        case.x, case.row, case.history = case.x.float(), case.row.float(), case.history.float()
        run(case)
    assert torch.equal(wide.x, narrow.x)
    assert torch.equal(wide.x_in.float().bfloat16(), narrow.x_in)


def test_cfg_combine_selects_at_zero_and_one() -> None:
    cond, nan = torch.randn(2, 3, 4, 4), torch.full((2, 3, 4, 4), float("nan"))
    zero, one = torch.zeros(2), torch.ones(2)
    assert torch.equal(cfg_combine(cond, nan, one, zero), cond)
    assert torch.equal(cfg_combine(nan, cond, zero, zero), cond)


def test_rescaled_guidance_has_the_conditional_std() -> None:
    cond, uncond = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 3, 8, 8).double()
    w, phi = torch.tensor([7.5, 2.0]).double(), torch.ones(2).double()
    rescaled = cfg_combine(cond, uncond, w, phi)
    torch.testing.assert_close(rescaled.flatten(1).std(1), cond.flatten(1).std(1))
    combined = uncond + w[:, None, None, None] * (cond - uncond)
    torch.testing.assert_close(cfg_combine(cond, uncond, w, phi * 0), combined)


def test_add_noise_keeps_dtype_and_scales_each_sample() -> None:
    x_0, z = torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3)
    signal_scale, noise_scale = torch.tensor([1.0, 0.6]), torch.tensor([0.0, 0.8])
    x_t = add_noise(x_0, signal_scale, noise_scale, z)
    assert torch.equal(x_t[0], x_0[0])
    torch.testing.assert_close(x_t[1], 0.6 * x_0[1] + 0.8 * z[1])
    assert add_noise(x_0.bfloat16(), signal_scale, noise_scale, z).dtype == torch.bfloat16


def test_the_posterior_asked_for_alone_is_the_fused_one() -> None:
    case = make_case((2, 3, 5))
    case.row[:, COLUMN["clip"]] = float("inf")
    case.row[:, COLUMN["w"]] = 1
    case.row[:, [COLUMN[f"c_{j}"] for j in range(1, 5)]] = 0
    m = case.model_output[case.cond_lane]
    k_x, k_m = (case.row[:, COLUMN[name], None, None, None] for name in ("k_x", "k_m"))
    z = normal(case.seed, case.step, STREAM_STEP, (2, 3, 5)).double()
    alone = posterior_update(case.x, k_x * case.x + k_m * m, m, case.row, z)
    run(case)
    torch.testing.assert_close(alone, case.x, rtol=1e-13, atol=1e-13)


# Where diffusers' rescale_noise_cfg divides 0 by 0, or by 0, or what float32 cannot hold by itself.
FLAT = {
    "both are constant": ((3, 4, 4), lambda cond, uncond: (cond * 0 + 2, uncond * 0 + 1)),
    "constants that their mean misses": ((3, 21, 7), lambda cond, uncond: (cond * 0 + 0.1, uncond * 0 + 0.7)),
    "a network of zeros": ((3, 4, 4), lambda cond, uncond: (cond * 0, uncond * 0)),
    "one element": ((1, 1, 1), lambda cond, uncond: (cond, uncond)),
    "what is guided is constant": ((3, 4, 4), lambda cond, uncond: (cond, 2 * cond)),  # w = 2 cancels
    "squares beyond float32": ((3, 4, 4), lambda cond, uncond: (cond * 1e25, uncond * 1e25)),
    "squares below float32": ((3, 4, 4), lambda cond, uncond: (cond * 1e-25, uncond * 1e-25)),
}


@pytest.mark.parametrize(("shape", "halves"), FLAT.values(), ids=FLAT)
@pytest.mark.parametrize("module", [reference, pytest.param(fused, marks=pytest.mark.slow)], ids=["twin", "fused"])
def test_where_there_is_no_quotient_of_deviations_nothing_is_rescaled(
    module: Any, shape: tuple[int, int, int], halves: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    cond, uncond = halves(*torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0)))
    w, row = torch.tensor([2.0]), torch.tensor(IDLE_ROW)[None].clone()
    row[:, COLUMN["w"]], row[:, COLUMN["phi"]] = 2.0, 0.7
    m, statistics = module.cfg_combine(cond, uncond, w, torch.tensor([0.7])), torch.zeros(1, 2)
    assert torch.equal(m, uncond + 2 * (cond - uncond))
    lane = torch.zeros(1, dtype=torch.int64)
    module.step_statistics(statistics, torch.zeros_like(cond), torch.cat([cond, uncond]), row, lane, lane + 1)
    assert statistics[0, 0] == 1


def test_a_half_alone_is_not_rescaled() -> None:
    cond, uncond = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    w, phi = torch.tensor([0.0, 1.0]), torch.tensor([0.7, 0.7])
    assert torch.equal(cfg_combine(cond, uncond, w, phi), torch.stack([uncond[0], cond[1]]))

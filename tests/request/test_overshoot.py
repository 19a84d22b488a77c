"""A plan that would end in noise says so before it runs, and no other plan does."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep import Engine, Model, OvershootWarning, schedules
from fewstep.cli import main
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SAMPLERS, build_plan
from support.oracles import affine_run
from support.small import SHAPE, SmallNet

CASES = [
    ("heun", 5, "eps", {}),
    ("kdpm2", 9, "v", {"spacing": "karras"}),
    ("edm", 9, "v", {"spacing": "karras", "s_churn": 4.0}),
    ("dpmpp_3m", 6, "x_0", {}),
    ("dpmpp_3m_sde", 6, "v", {}),
    ("unipc", 7, "v", {}),
    ("lms", 8, "v", {}),
    ("plms", 8, "eps", {"spacing": "leading"}),
    ("ddim", 4, "v", {"eta": 0.5}),
]


@pytest.mark.parametrize(("sampler", "steps", "prediction", "options"), CASES)
def test_how_wide_a_run_ends_is_that_of_a_gaussian(
    sampler: str, steps: int, prediction: str, options: dict[str, Any]
) -> None:
    """Beside the oracle that follows mean and covariance through every row."""
    plan = build_plan(sampler, schedules.linear(), steps, prediction, **options)
    maps = []
    for row, signal, noise in zip(plan.rows, plan.levels.signal_scale, plan.levels.noise_scale, strict=False):
        r = dict(zip(Plan.DEFAULTS, row.tolist(), strict=True))
        m = (signal / (signal**2 + noise**2) - r["k_x"]) / r["k_m"] / r["c_in"]
        maps.append((torch.tensor([[m]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)))
    linear, _, covariance = affine_run(plan, maps)
    right = plan.levels.signal_scale[-1] ** 2 + plan.levels.noise_scale[-1] ** 2
    variance = float(linear**2 * plan.init_scale**2 + covariance) / right
    assert plan.spread == pytest.approx(variance**0.5, rel=1e-9)


@pytest.mark.parametrize("sampler", ["heun", "edm", "plms"])
def test_who_asks_for_noise_is_told_at_their_line(sampler: str) -> None:
    """On a cosine schedule, which begins at sigma = 20,000; once, and named by what to do."""
    model = Model(SmallNet(), schedule=schedules.cosine(), shape=SHAPE, prediction="v", name="small")
    said = rf"{sampler}: 7 calls end in noise, .* take more steps, or ddim"
    with pytest.warns(OvershootWarning, match=said) as caught:
        Engine(model, max_batch=2).sample(5, steps=7, sampler=sampler, seeds=0)
    assert [each.filename for each in caught] == [__file__]


def test_no_other_plan_warns() -> None:
    model = Model(SmallNet(), schedule=schedules.cosine(), shape=SHAPE, prediction="v")
    engine = Engine(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, sampler in SAMPLERS.items():
            if "vp" in sampler.kinds and name not in ("heun", "edm", "plms"):
                engine.sample(1, steps=sampler.calls(6), sampler=name, seeds=0)
        engine.sample(1, steps=15, sampler="heun", spacing="karras", seeds=0)


def test_the_command_line_says_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "x.png")
    assert main(["generate", "digits", "--sampler", "heun", "--steps", "5", "--out", out, "-q"]) == 0
    assert "end in noise" in " ".join(capsys.readouterr().err.split())

"""Spacings beyond timesteps: as their own libraries have them, at any number of steps, and what is refused."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from diffusers import (
    EulerDiscreteScheduler,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SCMScheduler,
)
from diffusers.schedulers.scheduling_utils import AysSchedules

from fewstep import schedules
from fewstep.diffusion.align_your_steps import TABLES, align_your_steps_sigmas
from fewstep.diffusion.ladders import Array, beta_sigmas, polyexponential_sigmas
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.quantiles import beta_quantile
from fewstep.diffusion.schedules import Schedule
from fewstep.diffusion.spacings import LEVEL_OPTIONS, make_levels
from fewstep.errors import ArgumentError
from support.k_diffusion import samplers as k_diffusion

STEPS = (1, 2, 3, 4, 8, 20)
FLOAT32 = 3e-7  # diffusers keeps these in float32
LATENT, FLOW, TRIG = schedules.scaled_linear(), schedules.flow(), schedules.trigflow()
SCHEDULES = {
    "linear": schedules.linear(),
    "latent": LATENT,
    "cosine": schedules.cosine(),
    "flow": FLOW,
    "shifted flow": schedules.flow(1000, 3.0),
    "karras": schedules.karras(1000),
    "trigflow": TRIG,
}


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.1, 0.1), (1, 1), (0.5, 3), (5, 5), (5, 0.1), (0.1, 5)])
def test_quantiles_of_the_beta_distribution_are_scipys(a: float, b: float) -> None:
    u = np.concatenate([np.linspace(0, 1, 201), [1e-9, 1e-4, 1 - 1e-4, 1 - 1e-9]])
    error = np.abs(beta_quantile(u, a, b) - scipy.stats.beta.ppf(u, a, b)).max()
    print(f"Beta({a}, {b}): {error:.1e}")
    assert error <= 1e-12


@pytest.mark.parametrize("steps", STEPS)
def test_beta_sigmas_are_diffusers(steps: int) -> None:
    theirs = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    theirs.register_to_config(use_beta_sigmas=True)
    theirs.set_timesteps(steps)
    found = theirs.sigmas[:-1].double().numpy()
    assert beta_sigmas(steps, found[-1], found[0]) == pytest.approx(found, rel=FLOAT32)
    if steps > 1:  # one step of theirs begins at timestep 0
        assert make_levels(LATENT, steps, "beta").sigmas[:-1] == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("rho", [0.5, 1.0, 3.0])
def test_polyexponential_sigmas_are_k_diffusions(steps: int, rho: float) -> None:
    theirs = k_diffusion().get_sigmas_polyexponential(steps, 0.03, 14.6, rho)[:-1].double().numpy()
    assert polyexponential_sigmas(steps, 0.03, 14.6, rho) == pytest.approx(theirs, rel=2e-6)


FLOW_CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shifted": {"shift": 3.0},
    "dynamic": {"use_dynamic_shifting": True},
    "dynamic, linear": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    "stretched": {"shift": 3.0, "shift_terminal": 0.1},
    "dynamic, stretched": {"use_dynamic_shifting": True, "shift_terminal": 0.1},
    "karras": {"shift": 3.0, "use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"shift": 3.0, "use_beta_sigmas": True},
}


@pytest.mark.parametrize("config", FLOW_CONFIGS)
@pytest.mark.parametrize("steps", STEPS)
def test_flow_match_is_what_diffusers_runs_by_default(config: str, steps: int) -> None:
    """One step is left where it is by a stretch, which for diffusers is 0 / 0."""
    said, mu = FLOW_CONFIGS[config], 0.9
    dynamic, stretch = said.get("use_dynamic_shifting", False), said.get("shift_terminal")
    theirs = FlowMatchEulerDiscreteScheduler(**said)
    if stretch and steps == 1:
        theirs = FlowMatchEulerDiscreteScheduler(**{k: v for k, v in said.items() if k != "shift_terminal"})
    theirs.set_timesteps(steps, mu=mu if dynamic else None)
    ladders = [name for name in ("karras", "exponential", "beta") if said.get(f"use_{name}_sigmas")]
    options: dict[str, Any] = {"shift_terminal": stretch, "ladder": ladders[0] if ladders else None}
    if dynamic:
        options |= {"shift": mu} if "time_shift_type" in said else {"mu": mu}
    schedule = schedules.flow(1000, 1.0 if dynamic else said.get("shift", 1.0))
    ours = make_levels(schedule, steps, "flow_match", **options)
    assert ours.noise_scale == pytest.approx(theirs.sigmas.numpy(), abs=FLOAT32)
    assert ours.t == pytest.approx(theirs.timesteps.numpy(), rel=FLOAT32)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("mu", [0.5, 1.15])
def test_a_shift_at_sampling_time_is_that_of_pipelines_that_hand_over_their_sigmas(steps: int, mu: float) -> None:
    """As Flux's does: 1 .. 1 / steps, shifted by exp(mu); whatever shift the flow was trained with."""
    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02 if steps > 1 else None)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    for schedule in (FLOW, schedules.flow(1000, 3.0)):
        ours = make_levels(schedule, steps, "flow_even", mu=mu, shift_terminal=0.02)
        assert ours.noise_scale == pytest.approx(theirs.sigmas.numpy(), abs=FLOAT32)
        assert ours.t == pytest.approx(theirs.timesteps.numpy(), abs=1000 * FLOAT32)
        said = [make_levels(schedule, steps, "trailing", **shift) for shift in ({"mu": mu}, {"shift": math.exp(mu)})]
        assert said[0].noise_scale == pytest.approx(said[1].noise_scale, rel=1e-12)
        even = make_levels(schedule, steps, "flow_even", mu=mu)
        assert said[0].noise_scale == pytest.approx(even.noise_scale, abs=2e-3)  # its timesteps are whole


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_even_levels_of_a_flow_are_those_of_diffusers_flow_maps(steps: int, shift: float) -> None:
    theirs = FlowMapEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(steps)
    ours = make_levels(schedules.flow(1000, shift), steps, "flow_even")
    assert ours.noise_scale == pytest.approx(theirs.sigmas.numpy(), abs=1e-14)
    assert ours.t == pytest.approx(theirs.timesteps.numpy(), rel=1e-14)


def test_the_shift_of_the_training_changes_nothing() -> None:
    schedule = schedules.flow(1000, 3.0)
    plain, said = (make_levels(schedule, 5, "trailing", **options) for options in ({}, {"shift": 3.0}))
    assert said.noise_scale.tolist() == plain.noise_scale.tolist()
    assert said.t.tolist() == plain.t.tolist()
    index = make_levels(schedule.told("index"), 5, "trailing", shift=3.0)
    assert index.t.tolist() == [999, 799, 599, 399, 199]


def test_dynamic_mu_is_that_of_flux() -> None:
    """0.5 at 256 tokens, 1.15 at 4096, on a straight line through both."""
    for tokens, mu in ((256, 0.5), (4096, 1.15), (1024, 0.63), (7936, 1.8)):
        assert schedules.dynamic_mu(tokens) == pytest.approx(mu, abs=1e-15)
    assert schedules.dynamic_mu(64, 0.95, 2.05, 64, 4096) == 0.95


def test_align_your_steps_is_diffusers_tables_at_ten_steps() -> None:
    for table, theirs in (("sd15", "StableDiffusion"), ("sdxl", "StableDiffusionXL")):
        ours = make_levels(LATENT, 10, "ays", table=table)
        assert ours.sigmas == pytest.approx(AysSchedules[f"{theirs}Sigmas"], rel=1e-4)
        assert ours.sigmas[0] == LATENT.sigmas[-1]
        assert ours.t == pytest.approx(AysSchedules[f"{theirs}Timesteps"], abs=1)
    video = make_levels(schedules.karras(25, 0.002, 700.0, time="edm"), 10, "ays", table="svd")
    assert video.sigmas == pytest.approx(AysSchedules["StableDiffusionVideoSigmas"], rel=1e-12)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("steps", [1, 4, 5, 20])
def test_align_your_steps_is_log_linear_at_other_counts(table: str, steps: int) -> None:
    """Every other rung is the table's at half its steps; in between is the geometric mean of two."""
    sigmas, ten = np.append(align_your_steps_sigmas(steps, table), TABLES[table][-1]), np.array(TABLES[table])
    if 10 % steps == 0:
        assert sigmas == pytest.approx(ten[:: 10 // steps], rel=1e-12)
    if steps == 20:
        assert sigmas[::2] == pytest.approx(ten, rel=1e-12)
        assert sigmas[1::2] == pytest.approx(np.sqrt(ten[:-1] * ten[1:]), rel=1e-12)
    if steps == 4:
        assert sigmas[1] == pytest.approx(math.sqrt(ten[2] * ten[3]), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
def test_angles_are_those_of_diffusers_scm(steps: int) -> None:
    """Its right angle is 1.5708, which is 4e-6 past it."""
    theirs = SCMScheduler()
    theirs.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
    ours = make_levels(TRIG, steps, "trigflow")
    assert ours.t == pytest.approx(theirs.timesteps[:-1].numpy(), abs=4e-6)
    assert ours.sigmas[0] == math.inf
    assert ours.noise_scale[0] == TRIG.sigma_data


def test_angles_begin_where_they_are_told_to() -> None:
    """As the paper has it, atan(80 / 0.5), which is where a schedule of EDM's sigmas begins."""
    paper = make_levels(TRIG, 4, "trigflow", t_max=math.atan(80 / 0.5))
    assert paper.sigmas[0] == pytest.approx(80, rel=1e-12)
    assert paper.t == pytest.approx(math.atan(160) * np.array([1, 0.75, 0.5, 0.25]), rel=1e-14)
    edm = schedules.karras(40, time="trigflow").preconditioned(0.5)
    assert make_levels(edm, 4, "trigflow").sigmas == pytest.approx(paper.sigmas, rel=1e-12)
    assert make_levels(TRIG, 2, "trigflow", intermediate=1.1).t == pytest.approx([math.pi / 2, 1.1])
    assert make_levels(TRIG, 2, "trigflow", strength=0.5).t == pytest.approx([math.pi / 4, math.pi / 8])


CASES = [
    (name, spacing)
    for name, schedule in SCHEDULES.items()
    for spacing in LEVEL_OPTIONS
    if schedule.kind == "flow" or not spacing.startswith("flow_")
]


@pytest.mark.parametrize(("name", "spacing"), CASES)
def test_every_spacing_falls_in_exactly_its_steps(name: str, spacing: str) -> None:
    """From the schedule's highest level on, or from that of an image, and clean at the end."""
    schedule = SCHEDULES[name]
    for steps, strength in [*((steps, 1.0) for steps in range(1, 51)), *((steps, 0.6) for steps in range(1, 31))]:
        levels = levels_of(schedule, steps, spacing, strength)
        assert len(levels) == steps
        assert np.isfinite(levels.t).all()
        levels.falls()
        assert levels.sigmas[-1] == 0
        assert levels.sigmas[0] <= schedule.sigmas[-1]
        if spacing in ("trailing", "linspace", "flow_even", "flow_match", "trigflow") and strength == 1:
            assert levels.sigmas[0] == schedule.sigmas[-1]
        if spacing in ("trailing", "linspace", "flow_even", "trigflow"):
            assert levels.sigmas[0] == pytest.approx(schedule.sigmas[round(1000 * strength) - 1], rel=1e-9)


def levels_of(schedule: Schedule, steps: int, spacing: str, strength: float) -> Levels:
    """A ladder in Karras time is told where to begin on a schedule whose last level has no signal."""
    endless = "sigma_max" in LEVEL_OPTIONS[spacing] and np.isinf(schedule.sigmas[-1]) and strength == 1
    options = {"sigma_max": 80.0} if endless else {}
    return make_levels(schedule, steps, spacing, strength, **options)


@pytest.mark.parametrize("ladder", [beta_sigmas, polyexponential_sigmas])
def test_one_step_of_a_ladder_is_its_first(ladder: Callable[..., Array]) -> None:
    assert ladder(1, 0.1, 3.0).tolist() == [3.0]


@pytest.mark.parametrize("count", [3, 10, 28, 999])
@pytest.mark.parametrize("shift", [1.0, 1.15, 3.0])
def test_a_last_call_at_the_first_level_but_for_rounding_lands_there(count: int, shift: float) -> None:
    """Of as many even steps as a flow has levels the last begins at its first, and rounding may put it below."""
    schedule = schedules.flow(count, shift)
    levels = make_levels(schedule, count, "flow_even", final="first")
    levels.falls()
    assert levels.noise_scale[-2:] == pytest.approx(schedule.noise_scale[:1].repeat(2), rel=1e-12)


def refused(
    schedule: Schedule, spacing: str, steps: Any = 4, strength: float = 1.0, **options: Any
) -> Callable[[], Any]:
    return lambda: make_levels(schedule, steps, spacing, strength, **options)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (refused(LATENT, "beta", alpha=0.0), "alpha: got 0.0; allowed: a number in [0.1, 5]"),
        (refused(LATENT, "beta", beta=20), "beta: got 20; allowed: a number in [0.1, 5]"),
        (refused(LATENT, "polyexponential", rho=0), "rho: got 0"),
        (refused(LATENT, "polyexponential", sigma_max=20.0), "sigma_max: got 20.0; allowed: 0.029"),
        (refused(LATENT, "betas"), "did you mean 'beta'?"),
        (refused(LATENT, "trailing", shift=3.0), "shift: got 3.0; allowed: nothing on a scaled_linear schedule"),
        (refused(LATENT, "trailing", mu=1.0), "mu: got 1.0; allowed: nothing on a scaled_linear schedule"),
        (refused(FLOW, "trailing", shift=3.0, mu=1.0), "mu: got 1.0; allowed: nothing beside shift, whose logarithm"),
        (refused(FLOW, "linspace", shift=0), "shift: got 0; allowed: a number in [0.001, 1000]"),
        (refused(FLOW, "flow_match", mu=math.nan), "mu: got nan"),
        (refused(FLOW, "flow_match", shift_terminal=1.0), "shift_terminal: got 1.0; allowed: a number in [1e-06, 1)"),
        (refused(FLOW, "flow_match", ladder="kerras"), "did you mean 'karras'?"),
        (refused(FLOW, "flow_match", 2, 0.001), "strength: got 0.001; allowed: more: within it lies one level"),
        (refused(LATENT, "flow_match"), "spacing: got 'flow_match'; allowed: others on a scaled_linear schedule"),
        (refused(FLOW, "flow_match", 0), "steps: got 0"),
        (refused(FLOW.told("index"), "trailing", shift=2.5), "spacing: got trailing, which visits timestep"),
        (refused(LATENT, "ays", table="sd3"), "table: got 'sd3'; allowed: sd15, sdxl, svd; did you mean"),
        (refused(LATENT, "ays", 10, table="svd"), "table: got svd, which with 10 steps reaches sigma = 0.0"),
        (refused(schedules.cosine(), "ays", 2, 0.001), "strength: got one that begins at sigma = 0.00"),
        (refused(FLOW, "flow_even", 4, 1e-6, final="first"), "final: got 'first'; allowed: 'clean': the last call is"),
        (refused(FLOW, "linspace", shift=0.5, final="first"), "final: got 'first'; allowed: 'clean'"),
        (refused(schedules.flow(1), "trailing", 1, final="first"), "final: got 'first'; allowed: 'clean'"),
        (refused(schedules.karras(), "karras", sigma_min=1e-3, final="first"), "final: got 'first'; allowed: 'clean'"),
        (refused(LATENT, "trailing", "4"), "steps: got '4'; allowed: an integer"),
        (refused(LATENT, "linspace", True), "steps: got True; allowed: an integer"),
        (refused(LATENT, "leading", offset=np.ones(2)), "offset: got array"),
        (refused(TRIG, "trigflow", intermediate=1.3), "intermediate: got 1.3; allowed: nothing with 4 steps"),
        (refused(TRIG, "trigflow", 2, intermediate=1.6), "intermediate: got 1.6; allowed: a number in [1e-06, 1.57"),
        (refused(TRIG, "trigflow", t_max=1e-300), "t_max: got 1e-300; allowed: a number in [1e-06, 1.57"),
        (
            refused(FLOW, "karras", sigma_min=5e-324, sigma_max=80.0),
            "sigma_min: got 5e-324; allowed: a number in [1e-12",
        ),
        (refused(TRIG, "trigflow", t_max=1.6), "t_max: got 1.6; allowed: a number in [1e-06, 1.57"),
        (refused(LATENT, "trigflow", 100), "spacing: got trigflow with 100 steps, which ends at 0.015; allowed"),
        (lambda: schedules.dynamic_mu(0), "tokens: got 0"),
        (lambda: schedules.dynamic_mu(9, max_tokens=4), "max_tokens: got 4; allowed: an integer from 257"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_impossible_spacing_names_what_is_allowed(build: Callable[[], Any], said: str) -> None:
    with pytest.raises(ArgumentError) as error:
        build()
    assert said in str(error.value)
    assert "\n" not in str(error.value)

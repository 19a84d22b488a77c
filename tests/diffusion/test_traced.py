"""`Plan.from_diffusers`: what it takes, what it leaves alone, and what its plans are good for."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep import schedules
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import make_plan
from fewstep.diffusion.schedules import Schedule
from fewstep.diffusion.tracing.basis import Basis
from fewstep.diffusion.tracing.brownian import Brownian
from fewstep.errors import ArgumentError
from fewstep.request.guidance.free import ClassifierFree
from fewstep.request.planning import Planner
from support.composed import composed
from support.diffusers_loops import TOLERANCE, draw, dummy_model, module_of
from support.plan_interpreter import run_in_engine, run_plan
from support.scheduler_loop import in_float64, run_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:.*__array:DeprecationWarning")  # diffusers' own, of numpy 2
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def state(scheduler: Any) -> dict[str, Any]:
    """All that a scheduler holds, in values that stay as they are."""
    return copy.deepcopy(vars(scheduler))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def named(module: Any) -> dict[str, Any]:
    """What a module holds, without Python's own."""
    return {name: each for name, each in vars(module).items() if not name.startswith("__")}


@pytest.mark.parametrize("set_before", [False, True], ids=["as made", "amid a run"])
@pytest.mark.parametrize("fails", [False, True], ids=["traced", "refused"])
def test_the_scheduler_is_left_as_it_was(set_before: bool, fails: bool) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", thresholding=True)
    if set_before:
        scheduler.set_timesteps(4)
        scheduler.step(torch.ones(1, 3, 2, 2), scheduler.timesteps[0], torch.ones(1, 3, 2, 2))
    before, module = state(scheduler), named(module_of(type(scheduler)))
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    if fails:
        with pytest.raises(ArgumentError, match="its step is not linear"):
            Plan.from_diffusers(scheduler, 8, variance_noise=torch.ones(1))
    else:
        assert len(Plan.from_diffusers(scheduler, 8)) == 8
    assert same(before, state(scheduler))
    assert module == named(module_of(type(scheduler)))
    assert torch.equal(drawn, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32


def test_traces_at_once_are_right_and_others_draw_their_own_noise() -> None:
    made = {
        "sde": lambda: diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
        "lcm": diffusers.LCMScheduler,
        "sa": diffusers.SASolverScheduler,
    }
    alone = {name: Plan.from_diffusers(make(), 12).rows for name, make in made.items()}
    found: dict[str, list[np.ndarray]] = {name: [] for name in made}
    noise: list[Tensor] = []
    shared = {name: make() for name, make in made.items()}
    begin = threading.Barrier(len(made) + 1)

    def trace(name: str) -> None:
        begin.wait()
        found[name] = [Plan.from_diffusers(shared[name], 12).rows for _ in range(2)]

    def other() -> None:
        generator = torch.Generator().manual_seed(5)
        begin.wait()
        noise.extend(torch.randn(1, 1, 107, 1, generator=generator) for _ in range(200))

    threads = [threading.Thread(target=trace, args=(name,)) for name in made] + [threading.Thread(target=other)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert all(np.array_equal(rows, alone[name]) for name, each in found.items() for rows in each)
    assert [len(each) for each in found.values()] == [2, 2, 2]
    generator = torch.Generator().manual_seed(5)
    assert all(torch.equal(each, torch.randn(1, 1, 107, 1, generator=generator)) for each in noise)


MODELS: dict[str, tuple[Callable[[], Any], Schedule, str]] = {
    "ddim": (lambda: diffusers.DDIMScheduler(**STABLE), schedules.scaled_linear(), "eps"),
    "ddim of a v model": (
        lambda: diffusers.DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
        schedules.linear().rescale_zero_terminal_snr(),
        "v",
    ),
    "euler": (lambda: diffusers.EulerDiscreteScheduler(**STABLE), schedules.scaled_linear(), "eps"),
    "unipc": (lambda: diffusers.UniPCMultistepScheduler(**STABLE), schedules.scaled_linear(), "eps"),
    "lcm": (lambda: diffusers.LCMScheduler(), schedules.scaled_linear(), "eps"),
    "flow": (lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), schedules.flow(1000, 3.0), "flow"),
    "flow map": (lambda: diffusers.FlowMapEulerDiscreteScheduler(), schedules.flow(1000), "flow"),
    "edm": (lambda: diffusers.EDMEulerScheduler(), schedules.karras(time="edm").preconditioned(0.5), "edm"),
    "scm": (lambda: diffusers.SCMScheduler(), schedules.trigflow(), "v"),
    "consistency": (lambda: diffusers.CMStochasticIterativeScheduler(), schedules.karras(), "consistency"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_on_the_scheduler_s_own_schedule_takes_the_plan(name: str) -> None:
    make, schedule, prediction = MODELS[name]
    plan = Plan.from_diffusers(make(), 2)
    takes_r = {"second_time": name == "flow map"}
    assert Planner(schedule, prediction, {}, ClassifierFree(), **takes_r).unlike(plan) is None
    assert Planner(schedule, "score", {}, ClassifierFree(), **takes_r).unlike(plan) is not None


@pytest.mark.parametrize(
    ("name", "settings", "steps", "closed"),
    [
        ("DPMSolverMultistepScheduler", {"solver_order": 3}, 9, False),
        ("HeunDiscreteScheduler", {}, 5, False),
        ("DEISMultistepScheduler", {}, 9, False),
        ("UniPCMultistepScheduler", {}, 9, True),
        ("PNDMScheduler", {"skip_prk_steps": True}, 8, True),
    ],
)
def test_closed_plans_are_those_that_differ_when_somebody_writes_to_x(
    name: str, settings: dict[str, Any], steps: int, closed: bool
) -> None:
    """Between two steps, as inpainting does."""
    cls = getattr(diffusers, name)
    with in_float64(cls):
        scheduler = cls(**settings)
        plan = Plan.from_diffusers(scheduler, 9)
        scheduler.set_timesteps(steps)
        noise, model = draw(10), dummy_model()

        def touch(x: Tensor) -> Tensor:
            return x + 0.1 * noise[5]

        theirs = run_pipeline(scheduler, model, noise, touch=touch)
        ours = run_plan(plan, model, plan.init_scale * noise[0], noise[1:], touch)
    difference = float((ours - theirs).abs().max())
    assert plan.closed == closed == (", closed" in plan.describe().splitlines()[0])
    assert difference > 1e-3 if closed else difference < TOLERANCE


@pytest.mark.parametrize(
    "name", ["DEISMultistepScheduler", "UniPCMultistepScheduler", "EulerAncestralDiscreteScheduler"]
)
def test_the_engine_runs_a_traced_plan(name: str) -> None:
    plan, noise, model = Plan.from_diffusers(getattr(diffusers, name)(), 6), draw(7), dummy_model()
    read = run_plan(plan, model, plan.init_scale * noise[0], noise[1:])
    assert torch.allclose(run_in_engine(plan, model, noise), read, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("name", ["DDIMScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_strength_runs_the_end_of_a_schedule_in_exactly_so_many_calls(name: str, steps: int, strength: float) -> None:
    """With n inference steps as image-to-image pipelines do, from the same noised image."""
    cls = getattr(diffusers, name)
    with in_float64(cls):
        scheduler = cls()
        plan = Plan.from_diffusers(scheduler, steps, strength=strength)
        assert len(plan) == steps
        for n in range(1, 40):
            scheduler.set_timesteps(n)
            skipped = (n - int(n * strength)) * scheduler.order
            if len(scheduler.timesteps) - skipped == steps:
                break
        noise, model = draw(steps + 1), dummy_model()
        if strength == 1:
            start = plan.init_scale * noise[0]
        else:
            start = float(plan.levels.signal_scale[0]) * noise[1] + float(plan.levels.noise_scale[0]) * noise[0]
        theirs = run_pipeline(scheduler, model, noise, slice(skipped, None), start=start)
        ours = run_plan(plan, model, start, noise[1:])
    assert plan.levels.t.tolist() == [float(t) for t in scheduler.timesteps[skipped:]]
    assert float((ours - theirs).abs().max()) < TOLERANCE * max(1.0, float(theirs.abs().max()))


def test_timesteps_sigmas_and_mu_go_to_the_scheduler_that_takes_them() -> None:
    assert Plan.from_diffusers(diffusers.EulerDiscreteScheduler(), timesteps=[999, 500, 100]).levels.t.tolist() == [
        999,
        500,
        100,
    ]
    shifting = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    plan = Plan.from_diffusers(shifting, sigmas=[1.0, 0.5], mu=1.0)
    assert plan.levels.noise_scale == pytest.approx([1.0, np.e / (np.e + 1), 0.0], rel=1e-6)
    scheduler = diffusers.EulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[10.0, 2.0, 0.0])
    assert Plan.from_diffusers(scheduler).levels.noise_scale.tolist() == [10.0, 2.0, 0.0]


NATIVE: dict[str, tuple[str, dict[str, Any], int]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}, 8),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}, 8),
    "euler": ("EulerDiscreteScheduler", {}, 8),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}, 8),
    "heun": ("HeunDiscreteScheduler", {}, 7),
    "kdpm2": ("KDPM2DiscreteScheduler", {}, 7),
    "lcm": ("LCMScheduler", {}, 8),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}, 8),
    "unipc": ("UniPCMultistepScheduler", {}, 8),
    "lms": ("LMSDiscreteScheduler", {}, 8),
}


@pytest.mark.parametrize("name", NATIVE)
def test_a_native_sampler_is_the_traced_scheduler(name: str) -> None:
    """Rows are not unique, so that whole runs are compared."""
    scheduler, settings, steps = NATIVE[name]
    cls = getattr(diffusers, scheduler)
    betas = {} if name == "lcm" else {"timestep_spacing": "trailing"}
    with in_float64(cls):
        traced = Plan.from_diffusers(cls(**STABLE, **settings, **betas), steps)
    spacing = "lcm" if name == "lcm" else "trailing"
    native = make_plan(name, schedules.scaled_linear(), steps, "eps", spacing)
    assert native.levels.t == pytest.approx(traced.levels.t, rel=1e-12)
    theirs = composed(traced)[-1]
    assert np.abs(composed(native)[-1] - theirs).max() < TOLERANCE * np.abs(theirs).max()


def test_r_of_a_flow_map_is_where_its_row_lands() -> None:
    plan = Plan.from_diffusers(diffusers.FlowMapEulerDiscreteScheduler(), 4)
    assert plan.column("r").tolist() == [*plan.levels.t[1:].tolist(), 0.0]
    assert plan.column("e") == pytest.approx((plan.column("r") - plan.column("t")) / 1000)
    slope = Plan.from_diffusers(diffusers.FlowMatchEulerDiscreteScheduler(), 4)
    assert slope.column("r").tolist() == slope.column("t").tolist()


def test_a_solver_ignores_the_variance_that_its_network_answers() -> None:
    """As DPM-Solver does with guided diffusion's networks: the rows split it off, and no noise depends on it."""
    scheduler = diffusers.DPMSolverMultistepScheduler(variance_type="learned_range")
    plan, plain = (Plan.from_diffusers(each, 4) for each in (scheduler, diffusers.DPMSolverMultistepScheduler()))
    assert plan.learned_variance
    assert np.array_equal(plan.rows, plain.rows)


def test_history_is_what_the_scheduler_keeps() -> None:
    """DPM-Solver++ past x_0, LMS past derivatives, Heun x and its first derivative together."""
    plan = Plan.from_diffusers(diffusers.DPMSolverMultistepScheduler(), 8)
    assert plan.history == 1
    assert plan.column("h_0")[:-2].tolist() == [1.0] * 6
    plan = Plan.from_diffusers(diffusers.LMSDiscreteScheduler(num_train_timesteps=100), 8)
    assert (plan.history, plan.column("h_m")[:-1].tolist()) == (3, [1.0] * 7)
    plan = Plan.from_diffusers(diffusers.HeunDiscreteScheduler(), 7)
    assert plan.history == 1
    assert plan.column("h_x")[::2].tolist() != plan.column("h_x")[1::2].tolist()


def test_normal_numbers_on_intervals_that_overlap_are_correlated() -> None:
    """Cov(W(b) - W(a), W(d) - W(c)) is the length of what [a, b] and [c, d] have in common."""
    basis = Basis(40)
    noise = Brownian(basis.vector)
    ends = [(3.0, 2.0), (3.0, 1.0), (2.5, 1.5), (1.0, 0.5), (2.75, 0.75), (4.0, 3.5)]
    drawn = np.array([basis.coefficients(noise(*each)) for each in ends])
    for i, (high, low) in enumerate(ends):
        for j, (other_high, other_low) in enumerate(ends):
            common = max(0.0, min(high, other_high) - max(low, other_low))
            assert drawn[i] @ drawn[j] == pytest.approx(common / ((high - low) * (other_high - other_low)) ** 0.5)


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.9, 1.0])
def test_all_timesteps_within_a_strength_can_be_run(strength: float) -> None:
    """The inference steps that this takes are the most that the scheduler has: of one more it knows nothing."""
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=20)
    for steps in range(1, int(20 * strength) + 1):
        assert len(Plan.from_diffusers(scheduler, steps, strength=strength)) == steps


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Euler", {"steps": 0}, "steps: got 0; allowed: an integer from 1 to 1000"),
        ("Euler", {}, "steps: got None; allowed: a number of model calls: none is set in this scheduler"),
        ("Euler", {"steps": 4, "mu": 1.0}, "mu: got 1.0; allowed: nothing: EulerDiscreteScheduler.set_timesteps takes"),
        ("Euler", {"steps": 4, "eta": 0.5}, "eta: got 0.5; allowed: an option of EulerDiscreteScheduler: s_churn"),
        ("Euler", {"timesteps": [9, 5], "steps": 3}, "steps: got 3; allowed: 2, the calls that these timesteps make"),
        ("Euler", {"timesteps": [9, 5], "strength": 0.5}, "strength: got 0.5; allowed: 1.0 with explicit timesteps"),
        ("Euler", {"steps": 4, "strength": 0.0}, "strength: got 0.0"),
        ("Heun", {"steps": 4}, "steps: got 4; allowed: 3 or 5: this scheduler makes no other number of calls"),
        ("Heun", {"timesteps": []}, "timesteps: got []; allowed: a list of one or more finite numbers"),
        ("DDPM of a learned variance", {"timesteps": [-1]}, "timesteps: got [-1]; allowed: a list of one or more"),
        ("flow", {"sigmas": [float("nan")]}, "sigmas: got [nan]; allowed: a list of one or more finite numbers"),
        ("flow", {"steps": 4, "mu": "no"}, "mu: got 'no'; allowed: a number in [-100, 100]"),
        ("DDIM", {"steps": 501, "strength": 0.5}, "steps: got 501; allowed: 500 or fewer: of more this scheduler has"),
        ("DDIM", {"steps": 4, "eta": "no"}, "DDIMScheduler, of which no plan is made: it says: "),
        ("LCM", {"steps": 70}, "steps: got 70; allowed: 50 or fewer: of more this scheduler has no timesteps"),
        ("DDPM of a learned variance", {"steps": 4}, "its variance is learned, and not as a share of a log variance"),
        ("a class", {"steps": 4}, "it is the class DDIMScheduler itself; DDIMScheduler() makes one of it"),
        ("nothing", {"steps": 4}, "scheduler: got object, of which no plan is made: it has no set_timesteps"),
    ],
)
def test_errors_name_the_argument(name: str, arguments: dict[str, Any], message: str) -> None:
    made: dict[str, Callable[[], Any]] = {
        "Euler": diffusers.EulerDiscreteScheduler,
        "Heun": diffusers.HeunDiscreteScheduler,
        "DDIM": diffusers.DDIMScheduler,
        "flow": diffusers.FlowMatchEulerDiscreteScheduler,
        "LCM": diffusers.LCMScheduler,
        "DDPM of a learned variance": lambda: diffusers.DDPMScheduler(variance_type="learned"),
        "a class": lambda: diffusers.DDIMScheduler,
        "nothing": object,
    }
    with pytest.raises(ArgumentError) as raised:
        Plan.from_diffusers(made[name](), **arguments)
    assert message in str(raised.value)


class Adaptive:
    """A scheduler whose step depends on the size of what the network answers."""

    timesteps = torch.arange(3, 0, -1)
    num_inference_steps = 3
    alphas_cumprod = torch.linspace(0.99, 0.01, 4)

    def set_timesteps(self, num_inference_steps: int) -> None:
        self.timesteps = torch.arange(num_inference_steps, 0, -1)

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> tuple[Tensor]:
        return (sample - self.size(model_output) * model_output,)

    def size(self, m: Tensor) -> Any:
        return 1 / m.norm()


class Squared(Adaptive):
    def size(self, m: Tensor) -> Any:
        return m


class Uniform(Adaptive):
    def size(self, m: Tensor) -> Any:
        return torch.rand(1)


@pytest.mark.parametrize(
    ("scheduler", "reason"),
    [(Adaptive(), "not linear"), (Squared(), "not linear"), (Uniform(), "noise that is not normal")],
    ids=["a norm", "a square", "uniform noise"],
)
def test_what_is_not_linear_is_refused(scheduler: Any, reason: str) -> None:
    with pytest.raises(ArgumentError, match=reason):
        Plan.from_diffusers(scheduler, 3)

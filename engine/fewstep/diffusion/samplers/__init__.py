"""The native samplers: pure functions from levels to a plan, and `make_plan`, which finds the levels too."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

from fewstep.checks import entries, named, one_of, only, whole
from fewstep.diffusion.forward import NETWORKS
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import Clip
from fewstep.diffusion.samplers.consistency import consistency
from fewstep.diffusion.samplers.ddim import ddim
from fewstep.diffusion.samplers.ddpm import ddpm
from fewstep.diffusion.samplers.deis import deis
from fewstep.diffusion.samplers.dpmpp_2m import dpmpp_2m
from fewstep.diffusion.samplers.dpmpp_2m_sde import dpmpp_2m_sde
from fewstep.diffusion.samplers.dpmpp_3m import dpmpp_3m
from fewstep.diffusion.samplers.dpmpp_3m_sde import dpmpp_3m_sde
from fewstep.diffusion.samplers.edm import edm, edm_euler
from fewstep.diffusion.samplers.euler import euler
from fewstep.diffusion.samplers.euler_ancestral import euler_ancestral
from fewstep.diffusion.samplers.flow_map import flow_map
from fewstep.diffusion.samplers.heun import heun
from fewstep.diffusion.samplers.kdpm2 import kdpm2
from fewstep.diffusion.samplers.lcm import lcm
from fewstep.diffusion.samplers.lms import lms
from fewstep.diffusion.samplers.plms import plms, plms_calls
from fewstep.diffusion.samplers.scm import scm
from fewstep.diffusion.samplers.tcd import tcd
from fewstep.diffusion.samplers.unipc import unipc
from fewstep.diffusion.samplers.woven import twice
from fewstep.diffusion.schedules import MAX_TIMESTEPS, Kind, Schedule
from fewstep.diffusion.spacings import LADDERS, LEVEL_OPTIONS, make_levels
from fewstep.errors import ArgumentError

__all__ = [
    "SAMPLERS",
    "Clip",
    "Sampler",
    "SamplerName",
    "consistency",
    "ddim",
    "ddpm",
    "deis",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m",
    "dpmpp_3m_sde",
    "edm",
    "edm_euler",
    "euler",
    "euler_ancestral",
    "flow_map",
    "heun",
    "kdpm2",
    "lcm",
    "lms",
    "make_plan",
    "plms",
    "scm",
    "tcd",
    "unipc",
]


def one_each(levels: int) -> int:
    """A model call at each noise level."""
    return levels


FLOW_FIRST = ("flow", *(name for name in NETWORKS if name != "flow"))


@dataclass(frozen=True)
class Sampler:
    """What `make_plan` knows of a sampler."""

    build: Callable[..., Plan]
    summary: str
    spacing: str = "trailing"  # the default; every other one can be asked for
    predictions: tuple[str, ...] = NETWORKS  # what its model may predict, the default first
    kinds: tuple[Kind, ...] = ("vp", "flow", "ve", "trig")  # the schedules it runs on
    order: int = 1  # of its error in the length of a step; 0 for one that is no solver of the ODE or its SDE
    calls: Callable[[int], int] = one_each  # how many model calls it makes of so many noise levels
    fractional: bool = False  # linspace timesteps stay unrounded
    boundary: bool = False  # its model's function is x itself at the schedule's first level: no call belongs there

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """Its own options and their defaults; read once, since every request is checked for misspelt ones."""
        parameters = inspect.signature(self.build).parameters.values()
        own = {p.name: p.default for p in parameters if p.name not in ("levels", "prediction")}
        return MappingProxyType(own)

    def levels(self, name: str, steps: Any) -> Any:
        """How many noise levels a budget of model calls is for.

        Raises:
            ArgumentError: no number of levels takes so many calls; the nearest budgets are named.
        """
        budget = whole(steps)
        if self.calls is one_each or budget is None or not 1 <= budget <= MAX_TIMESTEPS:
            return steps  # what is no budget is told by the spacing
        possible = [self.calls(levels) for levels in range(1, budget + 2)]
        if budget in possible:
            return 1 + possible.index(budget)
        near = [max((calls for calls in possible if calls < budget), default=0), min(c for c in possible if c > budget)]
        allowed = " or ".join(str(calls) for calls in near if calls)
        raise ArgumentError("steps", steps, f"{allowed}: the model calls that {name} can make are these")


SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler(ddpm, "ancestral sampling; fixed or learned variance"),
    "ddim": Sampler(ddim, "deterministic at eta = 0, as noisy as DDPM at eta = 1"),
    "euler": Sampler(euler, "first-order ODE steps in Karras time, straight steps on a flow", fractional=True),
    "euler_ancestral": Sampler(euler_ancestral, "steps below the level and fresh noise up to it", fractional=True),
    "heun": Sampler(
        heun, "Euler's steps and a second call; for 9 calls and more", order=2, calls=twice, fractional=True
    ),
    "kdpm2": Sampler(
        kdpm2, "by the slope in the middle of a step; ancestral at eta = 1", order=2, calls=twice, fractional=True
    ),
    "edm": Sampler(
        edm,
        "EDM's stochastic sampler: churn, then Heun's step",
        "karras",
        kinds=("vp", "ve", "trig"),
        order=2,
        calls=twice,
    ),
    "edm_euler": Sampler(edm_euler, "the same with Euler's step", "karras", kinds=("vp", "ve", "trig")),
    "dpmpp_2m": Sampler(dpmpp_2m, "DPM-Solver++ 2M: looks one call back; for 8 steps and more", order=2),
    "dpmpp_2m_sde": Sampler(dpmpp_2m_sde, "the same with fresh noise at every step", order=2),
    "dpmpp_3m": Sampler(dpmpp_3m, "DPM-Solver++ 3M: looks two calls back", order=2),
    "dpmpp_3m_sde": Sampler(dpmpp_3m_sde, "the same with fresh noise at every step", order=2),
    "unipc": Sampler(unipc, "UniPC: each call also corrects the step before it", order=3),
    "deis": Sampler(deis, "DEIS: polynomials in ln sigma through past eps", order=2),
    "lms": Sampler(lms, "linear multistep in Karras time: looks three calls back", order=3, fractional=True),
    "plms": Sampler(
        plms, "pseudo linear multistep: PNDM without its Runge-Kutta calls", kinds=("vp",), order=2, calls=plms_calls
    ),
    "lcm": Sampler(lcm, "latent consistency models", spacing="lcm", kinds=("vp",), boundary=True, order=0),
    "tcd": Sampler(tcd, "trajectory consistency distillation", "lcm", kinds=("vp",), order=0),
    "consistency": Sampler(
        consistency, "consistency models", predictions=("consistency",), kinds=("ve",), boundary=True, order=0
    ),
    "scm": Sampler(scm, "x_0 and fresh noise: sCM, and whatever gives x_0 in one call", order=0),
    "flow_map": Sampler(
        flow_map,
        "networks told where a step goes: MeanFlow and others",
        predictions=FLOW_FIRST,
        kinds=("flow", "ve", "trig"),
    ),
}


def option_names() -> tuple[str, ...]:
    """All that some sampler, or some spacing of its levels, can be told."""
    own = [name for sampler in SAMPLERS.values() for name in sampler.options]
    return tuple(dict.fromkeys(["spacing", *own, *(name for names in LEVEL_OPTIONS.values() for name in names)]))


SamplerName = Literal[
    "ddpm",
    "ddim",
    "euler",
    "euler_ancestral",
    "heun",
    "kdpm2",
    "edm",
    "edm_euler",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m",
    "dpmpp_3m_sde",
    "unipc",
    "deis",
    "lms",
    "plms",
    "lcm",
    "tcd",
    "consistency",
    "scm",
    "flow_map",
]
"""A key of SAMPLERS, written out for type checkers."""


def make_plan(
    sampler: str,
    schedule: Schedule,
    steps: int,
    prediction: str | None = None,
    spacing: str | Sequence[int] | None = None,
    strength: float = 1.0,
    guidance_scale: float = 1.0,
    guidance_rescale: float = 0.0,
    **options: Any,
) -> Plan:
    """The plan of a sampler with exactly `steps` model calls.

    Args:
        sampler: a key of SAMPLERS.
        steps: the budget of model calls. One that the sampler cannot spend, such as 4 of Heun's method, which takes
            two calls for every step but the last, is an error that names the nearest.
        prediction: what the model predicts, "eps" by default; "consistency" models are a kind of their own.
        spacing: a key of `fewstep.diffusion.spacings.LEVEL_OPTIONS`, or a list of timesteps; unless given, the
            sampler's own.
        strength: in (0, 1]: the run starts from an image noised to this share of the schedule.
        guidance_scale, guidance_rescale: as in `Plan.with_guidance`.
        options: the sampler's own (`SAMPLERS[name].options`) and its spacing's (`LEVEL_OPTIONS`).

    Raises:
        ArgumentError: naming the argument, its value and what is allowed.

    Warns:
        WastedCallWarning: a call of the network changes nothing.
    """
    guidance = guidance_scale, guidance_rescale
    plan = build_plan(sampler, schedule, steps, prediction, spacing, strength, *guidance, **options)
    plan.warn_of_waste(stacklevel=2)
    return plan


def build_plan(
    sampler: str,
    schedule: Schedule,
    steps: int,
    prediction: str | None = None,
    spacing: str | Sequence[int] | None = None,
    strength: float = 1.0,
    guidance_scale: float = 1.0,
    guidance_rescale: float = 0.0,
    **options: Any,
) -> Plan:
    """As `make_plan`, without its warning: for who says that of all plans at once, or runs none."""
    if not one_of(sampler, SAMPLERS):
        raise ArgumentError("sampler", sampler, named(SAMPLERS, sampler))
    chosen = SAMPLERS[sampler]
    if not isinstance(schedule, Schedule):
        raise ArgumentError("schedule", schedule, "a Schedule, such as fewstep.schedules.linear(1000)")
    if schedule.kind not in chosen.kinds:
        allowed = f"for {sampler}, a schedule of kind " + " or ".join(chosen.kinds)
        raise ArgumentError("schedule", f"{schedule.name} of kind {schedule.kind!r}", allowed)
    prediction = chosen.predictions[0] if prediction is None else prediction
    if not one_of(prediction, chosen.predictions):
        raise ArgumentError("prediction", prediction, f"for {sampler}, " + ", ".join(chosen.predictions))

    spacing = chosen.spacing if spacing is None else spacing
    level_names = LEVEL_OPTIONS.get(spacing, ()) if isinstance(spacing, str) else ("final",)
    if "sigma_min" in options and "sigma_min" not in level_names and chosen.build is consistency:
        ladders = " or ".join(LADDERS)
        allowed = f"with spacing {ladders}, whose end it is; the model's boundary is sigma_boundary"
        raise ArgumentError("sigma_min", options["sigma_min"], allowed)
    only(f"option of {sampler}", options, dict.fromkeys([*chosen.options, *level_names]))
    of_levels = {name: value for name, value in options.items() if name in level_names}
    count = chosen.levels(sampler, steps)
    if (listed := None if isinstance(spacing, str) else entries(spacing)) is not None and len(listed) != count:
        calls = chosen.calls(len(listed))
        raise ArgumentError("steps", steps, f"{calls}, the model calls at the {len(listed)} timesteps given as spacing")
    try:
        levels = make_levels(schedule, count, spacing, strength, chosen.fractional, chosen.boundary, **of_levels)
    except ArgumentError as error:
        if error.argument != "steps" or count is steps:
            raise
        allowed = f"fewer: {sampler} makes these calls at {count} noise levels; allowed of those: {error.allowed}"
        raise ArgumentError("steps", steps, allowed) from None

    own = {name: value for name, value in options.items() if name in chosen.options}
    if len(chosen.predictions) > 1:
        own["prediction"] = prediction
    return chosen.build(levels, **own).with_guidance(guidance_scale, guidance_rescale)

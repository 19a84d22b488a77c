"""The teacher's walk, whatever the method: its deterministic sampler, with x_0 kept in range as its own plan does."""

from typing import Any, Final

from fewstep.models.spec import ModelSpec

DIRECTIONS: Final = {"ddim": ("clipped_direction",)}  # options of one sampler alone


def walking(taught: ModelSpec, steps: int, sampler: str | None = None) -> dict[str, Any]:
    """A plan of so many steps of the walk, as arguments of `make_plan`; by the teacher's walker unless one is named."""
    sampler = sampler or walker(taught)
    return {"sampler": sampler, "steps": steps, **clipping(sampler, taught)}


def walker(taught: ModelSpec) -> str:
    """The deterministic sampler whose steps a student learns: the teacher's own where it is one."""
    own: str = taught.plan["sampler"]
    return own if own in ("ddim", "euler") else "ddim"


def clipping(sampler: str, taught: ModelSpec) -> dict[str, Any]:
    """How the teacher's own plan keeps x_0 in range, as far as another sampler can."""
    return {name: taught.plan[name] for name in ("clip", *DIRECTIONS.get(sampler, ())) if name in taught.plan}

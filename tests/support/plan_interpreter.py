"""A plan's rows in plain float64, the meaning of `fewstep_kernels.row` written again; and the same by the engine."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fewstep import Engine, Model, schedules
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.schedules import Schedule
from fewstep.diffusion.times import OF_SIGMA
from fewstep.run.callbacks import Step
from fewstep_kernels.row import COLUMNS

Network = Callable[[Tensor, float], Tensor]


def clip_estimate(x_0: Tensor, limit: float, ratio: float) -> Tensor:
    """A static range, or per sample the quantile of |x_0| within [1, limit] as range and divisor."""
    if ratio == 0:
        return x_0.clamp(-limit, limit)
    q = torch.quantile(x_0.abs().flatten(1), ratio, dim=1).clamp(1, limit)
    q = q.reshape(-1, *[1] * (x_0.ndim - 1))
    return x_0.clamp(-q, q) / q


def run_plan(
    plan: Plan, model: Network, x: Tensor, noise: Sequence[Tensor], touch: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """x [B, C, ...] float64 after every row; model(x_in, t) gives [B, C or 2C, ...]; noise holds a z per row.

    `touch`: what somebody else makes of x after each row.
    """
    history: list[Tensor] = []
    for row, z in zip(plan.rows.tolist(), noise, strict=True):
        r = dict(zip(COLUMNS, row, strict=True))
        m = model(r["c_in"] * x, r["t"])
        std: float | Tensor = r["s"]
        if plan.learned_variance:
            m, v = m.split(x.shape[1], dim=1)
            log_var = torch.lerp(
                torch.full_like(v, r["log_var_min"]), torch.full_like(v, r["log_var_max"]), (v + 1) / 2
            )
            std = r["s"] * torch.exp(0.5 * log_var)
        x_0 = clip_estimate(r["k_x"] * x + r["k_m"] * m, r["clip"], r["clip_ratio"])
        past = sum((r[f"c_{j + 1}"] * h for j, h in enumerate(history)), torch.zeros_like(x))
        kept = r["h_x"] * x + r["h_0"] * x_0 + r["h_m"] * m
        x = touch(r["a"] * x + r["b"] * x_0 + r["e"] * m + past + std * z)
        history = [kept, *history][: plan.history]
    return x


class Adapter(nn.Module):
    """A model(x_in, t) as the float64 module an engine takes."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model
        self.width = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.model(x, float(t[0]))


class FlowMapAdapter(Adapter):
    """As such a module that is told a second time."""

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None = None) -> Tensor:
        return self.model(x, float(t[0]))


def told_as(plan: Plan) -> Schedule:
    """A schedule whose network counts as the plan does."""
    if plan.levels.schedule is not None:
        return plan.levels.schedule
    sigma_data = plan.levels.sigma_data
    if plan.levels.kind == "trig":
        return schedules.trigflow(sigma_data=sigma_data or 1.0)
    if plan.levels.time in OF_SIGMA:
        return schedules.karras() if sigma_data is None else schedules.karras().preconditioned(sigma_data)
    return schedules.flow() if plan.levels.kind == "flow" else schedules.linear()


def run_in_engine(plan: Plan, model: Network, noise: Sequence[Tensor]) -> Tensor:
    """The same run by `Engine.sample` in float64: noise[0] is where it starts, noise[1 + i] belongs to row i."""
    shape = tuple(noise[0].shape[1:])
    told = {"schedule": told_as(plan), "time": plan.levels.time, "prediction": plan.prediction}
    adapter = Adapter if (plan.column("r") == plan.column("t")).all() else FlowMapAdapter
    engine = Engine(Model(adapter(model), shape=shape, **told))  # type: ignore[arg-type]
    ends: list[Tensor] = []

    def keep(step: Step) -> None:  # the images are float32
        ends.append(step.x)

    engine.sample(n=len(noise[0]), plan=plan, noise=torch.stack(list(noise)), callback=keep)
    return ends[-1]

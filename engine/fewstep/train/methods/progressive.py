"""Progressive distillation. Salimans and Ho (2202.00512); guidance as an input: Meng et al. (2210.03142)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor, nn

import fewstep_kernels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import build_plan
from fewstep.diffusion.schedules import from_config
from fewstep.errors import ArgumentError
from fewstep.models.spec import ModelSpec
from fewstep.train.config import Checks
from fewstep.train.losses import Batch
from fewstep.train.methods.walk import walker, walking
from fewstep.train.teacher import Teacher, drawn_guidance

WEIGHTINGS: Final = ("truncated_snr", "snr_plus_one")


@dataclass(frozen=True, kw_only=True)
class ProgressiveDistillation:
    """A student of half its teacher's steps, or of another part; the next student of a chain has it as its teacher."""

    student_steps: int
    teacher_steps: int | None = None  # None: twice the student's
    weighting: str = "truncated_snr"  # of the loss

    alone: ClassVar[str] = ""

    def __post_init__(self) -> None:
        Checks(self).choice("weighting", WEIGHTINGS)

    @property
    def walk(self) -> int:
        return self.teacher_steps or 2 * self.student_steps

    @property
    def how(self) -> str:
        return f"{self.student_steps} step{'s' * (self.student_steps > 1)} for {self.walk} of its teacher"

    def plan(self, taught: ModelSpec) -> dict[str, Any]:
        return walking(taught, self.student_steps)

    def trained(self, taught: ModelSpec) -> dict[str, Any]:
        return {"sampler": walker(taught), "steps": [self.student_steps]}

    def teacher_plan(self, taught: ModelSpec) -> dict[str, Any]:
        return walking(taught, self.walk)

    def loss(self, teacher: Teacher, spec: ModelSpec, guidance: tuple[float, float] | None) -> "Progressive":
        plan = build_plan(schedule=from_config(spec.schedule), prediction=spec.prediction, **spec.plan)
        return Progressive(teacher, plan, guidance, self.weighting)


class Progressive:
    """A student's one step learns to land where its teacher's next few do.

        x_t     = signal_i x_0 + noise_i z at level i of the student's plan, i uniform over its rows
        x_s     = where the teacher's steps take x_t, to level i + 1 of the student's plan
        target  = the m with which the student's own row lands there, a x_t + b (k_x x_t + k_m m) + e m = x_s:
                  m = (x_s - (a + b k_x) x_t) / (b k_m + e)
        loss    = mean of  weight_i k_m^2 (m_student - target)^2,  which is weight_i (x_0 - x_0 of the target)^2

    weight: "truncated_snr" max(SNR, 1), "snr_plus_one" SNR + 1 (section 4). Levels and coefficients are
    those of the plans, so the student is trained for just the steps that the engine will run.

    Args:
        student: the plan it is trained for; each of its steps spans as many of the teacher's.
        guidance: the range from which each sample's guidance scale is drawn; None for a model without guidance.
    """

    def __init__(
        self, teacher: Teacher, student: Plan, guidance: tuple[float, float] | None, weighting: str = "truncated_snr"
    ) -> None:
        self.teacher, self.guidance = teacher, guidance
        self.substeps, self.rows = substeps(teacher.plan, student), len(student)
        self._table = torch.from_numpy(_table(student, weighting))

    def __call__(self, module: nn.Module, batch: Batch, average: nn.Module | None = None) -> dict[str, Tensor]:
        """{"loss": ...}."""
        device, labels = batch.x_0.device, batch.conditioning.get("labels")
        i = (batch.u * self.rows).long().clamp(max=self.rows - 1)
        t, signal, noise, _, _, weight, c_in = self._table[:, i].float().to(device).unbind()
        w = drawn_guidance(self.guidance, batch)
        x_t = fewstep_kernels.add_noise(batch.x_0, signal, noise, batch.noise)
        target = self.target(x_t, i, labels, w)
        arguments = dict(batch.conditioning) if w is None else {**batch.conditioning, "guidance": w}
        m = module(c_in[:, None, None, None] * x_t, t, **arguments)[:, : target.shape[1]].float()
        return {"loss": (weight * (m - target).square().flatten(1).mean(1)).mean()}

    def target(self, x_t: Tensor, i: Tensor, labels: Tensor | None, w: Tensor | None) -> Tensor:
        """The m with which the student's row i [B] takes x_t [B, C, H, W] to where the teacher's steps take it."""
        x_s = x_t
        for step in range(self.substeps):
            x_s = self.teacher.step(x_s, i * self.substeps + step, labels, w)
        of_x, of_landed = (column[:, None, None, None] for column in self._table[3:5, i].float().to(x_t.device))
        m: Tensor = of_landed * x_s + of_x * x_t
        return m


def substeps(teacher: Plan, student: Plan) -> int:
    """How many steps of the teacher's plan one of the student's spans.

    Raises:
        ArgumentError: plans whose levels do not meet.
    """
    spans, rest = divmod(len(teacher), len(student))
    if rest == 0 and spans > 0:
        meets = [
            np.allclose(getattr(teacher.levels, name)[::spans], getattr(student.levels, name), rtol=1e-12, atol=0)
            for name in ("signal_scale", "noise_scale")
        ]
        if all(meets):
            return spans
    allowed = f"a multiple of {len(student)} whose timesteps include the student's, such as {2 * len(student)}"
    raise ArgumentError("teacher_steps", len(teacher), allowed)


def _table(plan: Plan, weighting: str) -> np.ndarray:
    """[7, N] float64: t, signal, noise, the target's coefficients of x_t and x_s, weight of (m - target)^2, c_in."""
    a, b, e, k_x, k_m = (plan.column(name) for name in ("a", "b", "e", "k_x", "k_m"))
    signal, noise = plan.levels.signal_scale[:-1], plan.levels.noise_scale[:-1]
    snr = (signal / noise) ** 2
    weights = {"truncated_snr": np.maximum(snr, 1), "snr_plus_one": snr + 1}
    if weighting not in weights:
        raise ArgumentError("weighting", weighting, ", ".join(WEIGHTINGS))
    of_m = b * k_m + e
    of_x, weight = -(a + b * k_x) / of_m, weights[weighting] * k_m**2
    return np.stack([plan.column("t"), signal, noise, of_x, 1 / of_m, weight, plan.column("c_in")])

"""Consistency distillation as latent consistency models do it. Luo et al. (2310.04378)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor, nn

import fewstep_kernels
from fewstep.diffusion.forward import x_0_coefficients
from fewstep.diffusion.samplers.lcm import boundary
from fewstep.models.spec import ModelSpec
from fewstep.train.config import Checks
from fewstep.train.losses import Batch
from fewstep.train.methods.walk import clipping, walking
from fewstep.train.teacher import Teacher, drawn_guidance

GRID: Final = 50  # of the teacher's steps that a student is trained on
HUBER_C: Final = 0.03
STEPS: Final = (1, 2, 3, 4, 5, 6, 7, 8)  # for which a student counts as trained


@dataclass(frozen=True, kw_only=True)
class ConsistencyDistillation:
    """One student for a few numbers of steps of `lcm`, on the levels of its teacher's walk."""

    student_steps: int  # of its plan, unless asked otherwise
    teacher_steps: int | None = None  # None: GRID
    huber_c: float = HUBER_C  # of the loss

    alone: ClassVar[str] = "a consistency model does with 1 to 8 steps"

    def __post_init__(self) -> None:
        Checks(self).number("huber_c", 0, 100, open_low=True)

    @property
    def walk(self) -> int:
        return self.teacher_steps or GRID

    @property
    def how(self) -> str:
        return f"a consistency model on the {self.walk} levels of its teacher"

    def plan(self, taught: ModelSpec) -> dict[str, Any]:
        return {"sampler": "lcm", "steps": self.student_steps, "original_steps": self.walk, **clipping("lcm", taught)}

    def trained(self, taught: ModelSpec) -> dict[str, Any]:
        return {"sampler": "lcm", "steps": sorted({*STEPS, self.student_steps})}

    def teacher_plan(self, taught: ModelSpec) -> dict[str, Any]:
        # In DDIM's coordinates, which are those of lcm, whatever the teacher's own sampler.
        return {**walking(taught, self.walk, "ddim"), "spacing": "lcm", "original_steps": self.walk}

    def loss(self, teacher: Teacher, spec: ModelSpec, guidance: tuple[float, float] | None) -> "Consistency":
        return Consistency(teacher, spec.prediction, guidance, self.huber_c)


class Consistency:
    """Two neighbouring points of the teacher's walk learn to end at the same x_0.

        f(x, i)  = c_skip x + c_out (k_x x + k_m m(x, t_i))     the consistency function at level i
        x_t      = signal_i x_0 + noise_i z, i uniform over its rows
        x_s      = where the teacher's step takes x_t, with guidance w
        loss     = mean of  max(1, signal_i / noise_i) (sqrt((f(x_t, i) - f(x_s, i + 1))^2 + c^2) - c)

    The weight is the root of the truncated SNR. Where little noise is left f hardly depends on m, by a factor k_m; yet
    these levels, next to the data, are what holds all others: unweighted, they drift until all levels agree on
    something wrong. c keeps the loss quadratic where the student is already close, which is where it begins.

    The second f gets no gradient and has the averaged weights (Song et al. 2023, 2303.01469, section 4), or the
    student's own where there are none. Behind the last row f(x_s) = x_s.

    Args:
        prediction: the student's, whose k_x and k_m those of f are.
        guidance: the range from which each sample's guidance scale is drawn; None for a model without guidance.
        huber_c: c, in units of x_0.
    """

    def __init__(
        self, teacher: Teacher, prediction: str, guidance: tuple[float, float] | None, huber_c: float = HUBER_C
    ) -> None:
        self.teacher, self.guidance, self.huber_c = teacher, guidance, huber_c
        plan = teacher.plan
        self.rows = len(plan)
        c_skip, c_out = boundary(plan.levels.timesteps)
        signal, noise = plan.levels.signal_scale[:-1], plan.levels.noise_scale[:-1]
        weight = np.maximum(1, signal / noise)
        k_x, k_m = x_0_coefficients(prediction, signal, noise)
        columns = (plan.levels.t, signal, noise, weight, c_skip, c_out, k_x, k_m)
        self._table = torch.stack([torch.from_numpy(column.copy()) for column in columns])

    def __call__(self, module: nn.Module, batch: Batch, average: nn.Module | None = None) -> dict[str, Tensor]:
        """{"loss": ...}."""
        labels = batch.conditioning.get("labels")
        i = (batch.u * self.rows).long().clamp(max=self.rows - 1)
        _, signal, noise, weight, *_ = self._table[:, i].float().to(batch.x_0.device).unbind()
        w = drawn_guidance(self.guidance, batch)
        arguments = dict(batch.conditioning) if w is None else {**batch.conditioning, "guidance": w}
        x_t = fewstep_kernels.add_noise(batch.x_0, signal, noise, batch.noise)
        x_s = self.teacher.step(x_t, i, labels, w)
        with torch.no_grad():
            ended = (i + 1 == self.rows).to(x_s.device)[:, None, None, None]
            later = self._f(average or module, x_s, (i + 1).clamp(max=self.rows - 1), arguments)
            target = torch.where(ended, x_s, later)
        gap = self._f(module, x_t, i, arguments) - target
        distance = (gap.square() + self.huber_c**2).sqrt() - self.huber_c
        return {"loss": (weight[:, None, None, None] * distance).mean()}

    def _f(self, module: nn.Module, x: Tensor, i: Tensor, arguments: dict[str, Tensor]) -> Tensor:
        """The consistency function of x [B, C, H, W] at levels i [B]."""
        t, _, _, _, *coefficients = self._table[:, i].float().to(x.device).unbind()
        c_skip, c_out, k_x, k_m = (column[:, None, None, None] for column in coefficients)
        m = module(x, t, **arguments)[:, : x.shape[1]].float()
        ends: Tensor = c_skip * x + c_out * (k_x * x + k_m * m)
        return ends

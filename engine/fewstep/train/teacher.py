"""A teacher at work: a frozen model that walks along its own plan, its guidance folded in."""

import torch
from torch import Tensor, nn

import fewstep_kernels
from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError
from fewstep.train.losses import Batch
from fewstep_kernels import COLUMN


class Teacher:
    """What a student learns to land on, as a function.

    Args:
        module: the network, in evaluation mode.
        plan: its deterministic steps; row i takes x from level i to level i + 1.
        null: the class that stands for no label, where guidance is two halves of a batch.
        guided: the network takes the guidance scale as an input.

    Raises:
        ArgumentError: a plan with a dynamic threshold, whose limit is another one for each sample; one that reads past
            steps; or a preconditioned network.
    """

    def __init__(self, module: nn.Module, plan: Plan, null: int | None, guided: bool) -> None:
        if (plan.column("clip_ratio") > 0).any():
            raise ArgumentError("teacher", "a plan with a dynamic threshold (clip ratio)", "a fixed clip, or none")
        if plan.history:
            allowed = "a sampler whose steps each stand alone, such as ddim, as the model's own plan"
            raise ArgumentError(
                "teacher",
                f"a plan of {plan.sampler}, which reads {plan.history} past value{'s' * (plan.history > 1)}",
                allowed,
            )
        if plan.levels.sigma_data is not None:
            raise ArgumentError("teacher", "a network preconditioned for sigma_data", "a plain one")
        self.module = module.eval().requires_grad_(False)
        self.plan, self.null, self.guided = plan, null, guided
        self._table = plan.table()

    @torch.no_grad()
    def step(self, x: Tensor, index: Tensor, labels: Tensor | None, w: Tensor | None) -> Tensor:
        """x [B, C, H, W] at level index [B] -> [B, C, H, W] at the next one, guided by w [B]; None for no guidance."""
        row = self._table[index].to(x.device)
        m = self._predict(_each(row, "c_in") * x, row[:, COLUMN["t"]], labels, w)[:, : x.shape[1]].float()
        limit = _each(row, "clip")
        x_0 = (_each(row, "k_x") * x + _each(row, "k_m") * m).clamp(-limit, limit)
        return fewstep_kernels.posterior_update(x, x_0, m, row)

    def _predict(self, x_in: Tensor, t: Tensor, labels: Tensor | None, w: Tensor | None) -> Tensor:
        arguments = {} if labels is None else {"labels": labels}
        if w is not None and not self.guided:
            both = {} if labels is None else {"labels": torch.cat([labels, torch.full_like(labels, self.null or 0)])}
            cond, uncond = self.module(torch.cat([x_in, x_in]), torch.cat([t, t]), **both).chunk(2)
            return fewstep_kernels.cfg_combine(cond, uncond, w, torch.zeros_like(w))
        if w is not None:
            arguments["guidance"] = w
        answer: Tensor = self.module(x_in, t, **arguments)
        return answer


def drawn_guidance(guidance: tuple[float, float] | None, batch: Batch) -> Tensor | None:
    """A guidance scale for each sample, uniform in the range: [B] float32 on the device."""
    if guidance is None:
        return None
    low, high = guidance
    return (low + (high - low) * batch.spare).float().to(batch.x_0.device)


def _each(row: Tensor, column: str) -> Tensor:
    """A column of row [B, K] beside x [B, C, H, W]."""
    return row[:, COLUMN[column], None, None, None]

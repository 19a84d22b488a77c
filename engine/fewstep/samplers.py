"""The samplers under the name that users import them by; they are made in `fewstep.diffusion.samplers`."""

from fewstep.diffusion.samplers import SAMPLERS, Clip, Sampler, consistency, ddim, ddpm, euler, lcm, make_plan

__all__ = ["SAMPLERS", "Clip", "Sampler", "consistency", "ddim", "ddpm", "euler", "lcm", "make_plan"]

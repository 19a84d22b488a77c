"""The Triton twin of `fewstep_kernels.reference`: same names, same signatures, for float32, bfloat16 and float16.

Formulas are shared functions of `triton.jit`; an op is a thin kernel over them, and `denoise_step` composes them all.
"""

from fewstep_kernels.fused import interpreter
from fewstep_kernels.fused.guidance import cfg_combine
from fewstep_kernels.fused.log_prob import step_log_prob
from fewstep_kernels.fused.noising import add_noise, normal
from fewstep_kernels.fused.norms import group_norm_silu
from fewstep_kernels.fused.posterior import posterior_update
from fewstep_kernels.fused.statistics import step_statistics
from fewstep_kernels.fused.step import begin_step, denoise_step

__all__ = [
    "add_noise",
    "begin_step",
    "cfg_combine",
    "denoise_step",
    "group_norm_silu",
    "normal",
    "posterior_update",
    "step_log_prob",
    "step_statistics",
]

interpreter.mend()

"""The Triton twin of `fewstep_kernels.reference`: same names, same signatures, for float32, bfloat16 and float16.

Formulas are shared functions of `triton.jit`; an op is a thin kernel over them, and `denoise_step` composes them all.
"""

from fewstep_kernels.fused import interpreter
from fewstep_kernels.fused.biased import bias_residual
from fewstep_kernels.fused.gated import geglu
from fewstep_kernels.fused.guidance import cfg_combine
from fewstep_kernels.fused.layer_norms import add_layer_norm, layer_norm
from fewstep_kernels.fused.log_prob import step_log_prob
from fewstep_kernels.fused.noising import add_noise, normal
from fewstep_kernels.fused.norms import group_norm_silu
from fewstep_kernels.fused.posterior import posterior_update
from fewstep_kernels.fused.statistics import step_statistics
from fewstep_kernels.fused.step import begin_step, denoise_step
from fewstep_kernels.fused.timesteps import timestep_embedding

__all__ = [
    "add_layer_norm",
    "add_noise",
    "begin_step",
    "bias_residual",
    "cfg_combine",
    "denoise_step",
    "geglu",
    "group_norm_silu",
    "layer_norm",
    "normal",
    "posterior_update",
    "step_log_prob",
    "step_statistics",
    "timestep_embedding",
]

interpreter.mend()

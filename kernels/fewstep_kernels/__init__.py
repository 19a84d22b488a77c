"""Fused ops for diffusion sampling. They know tensors, not models: `reference` defines them in plain torch."""

from fewstep_kernels.laid_out import lay_out
from fewstep_kernels.layer_ops import (
    add_layer_norm,
    attention,
    attention_laid_out,
    bias_residual,
    conv2d_residual,
    geglu,
    group_norm_silu,
    layer_norm,
    pointwise,
    timestep_embedding,
)
from fewstep_kernels.operands import StepOperands
from fewstep_kernels.ops import (
    STEP_OPS,
    StepOps,
    add_noise,
    begin_step,
    cfg_combine,
    denoise_step,
    eager_normal,
    eager_step_ops,
    normal,
    posterior_update,
    step_log_prob,
    step_statistics,
)
from fewstep_kernels.philox import STREAM_FORWARD, STREAM_INITIAL, STREAM_KNOWN, STREAM_STEP
from fewstep_kernels.row import COLUMN, COLUMNS, IDLE_ROW, MAX_HISTORY

__all__ = [
    "COLUMN",
    "COLUMNS",
    "IDLE_ROW",
    "MAX_HISTORY",
    "STEP_OPS",
    "STREAM_FORWARD",
    "STREAM_INITIAL",
    "STREAM_KNOWN",
    "STREAM_STEP",
    "StepOperands",
    "StepOps",
    "add_layer_norm",
    "add_noise",
    "attention",
    "attention_laid_out",
    "begin_step",
    "bias_residual",
    "cfg_combine",
    "conv2d_residual",
    "denoise_step",
    "eager_normal",
    "eager_step_ops",
    "geglu",
    "group_norm_silu",
    "lay_out",
    "layer_norm",
    "normal",
    "pointwise",
    "posterior_update",
    "step_log_prob",
    "step_statistics",
    "timestep_embedding",
]

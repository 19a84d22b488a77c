"""Fused ops for diffusion sampling. They know tensors, not models: `reference` defines them in plain torch."""

from fewstep_kernels.laid_out import lay_out
from fewstep_kernels.operands import StepOperands
from fewstep_kernels.ops import (
    STEP_OPS,
    StepOps,
    add_noise,
    attention,
    attention_laid_out,
    begin_step,
    cfg_combine,
    denoise_step,
    eager_normal,
    eager_step_ops,
    group_norm_silu,
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
    "add_noise",
    "attention",
    "attention_laid_out",
    "begin_step",
    "cfg_combine",
    "denoise_step",
    "eager_normal",
    "eager_step_ops",
    "group_norm_silu",
    "lay_out",
    "normal",
    "posterior_update",
    "step_log_prob",
    "step_statistics",
]

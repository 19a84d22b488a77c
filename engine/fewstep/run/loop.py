"""The sampling loop: what every runner runs, and the definition of a run on any device."""

from fewstep.run.buffers import StaticBuffers
from fewstep.run.denoiser import Denoiser
from fewstep_kernels import STEP_OPS, StepOps


def sample_loop(denoiser: Denoiser, buffers: StaticBuffers, steps: int, ops: StepOps = STEP_OPS) -> None:
    """Take `steps` steps: gather each slot's row, call the model once, update.

    Nothing here reads a value back from the device, and nothing but tensors changes between two runs.
    """
    b = buffers
    for _ in range(steps):
        ops.begin_step(b.table, b.index, b.row, b.step, b.t, b.cond_lane, b.uncond_lane, b.r)
        m = denoiser.predict(b.x_in, b.t, b.conditioning, b.r)
        if b.statistics is not None:
            ops.step_statistics(b.statistics, b.x, m, b.row, b.cond_lane, b.uncond_lane)
        if b.log_prob is not None:
            v = b.signature.learned_variance
            ops.step_log_prob(b.log_prob, m, b.row, b.step, b.seed, b.cond_lane, b.x.shape[1], b.noise, b.mask, v)
        ops.denoise_step(b.operands(m))

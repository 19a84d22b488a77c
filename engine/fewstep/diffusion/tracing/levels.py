"""Where a scheduler's x lies at a call, x = signal x_0 + noise z, by what it says of it itself."""

import inspect
import math
from typing import Any

import numpy as np
from torch import Tensor

from fewstep.diffusion.tracing.basis import Basis
from fewstep.diffusion.tracing.conventions import setting
from fewstep.diffusion.tracing.prepare import Prepared
from fewstep.diffusion.tracing.refused import RefusedError

Level = tuple[float, float]


def level_of(prepared: Prepared, i: int, c_in: float, basis: Basis) -> Level:
    """signal and noise of x at call i. The first of these that a scheduler has:

    `scale_model_input`          c_in = 1 / sqrt(sigma^2 + sigma_data^2) of x_0 + sigma z, with its `sigmas`
    `_sigma_to_alpha_sigma_t`    of its `sigmas`
    `add_noise`, `scale_noise`   the forward process at the call's timestep
    trigflow                     cos t, sigma_data sin t
    `sqrt_alphas_cumprod`        by the timestep, with its complement; or `alphas_cumprod`
    `sigmas`                     alone, of a flow: 1 - sigma, sigma
    `alphas`, `betas`            alone, of a circle: alpha, beta
    """
    scheduler, t, at = prepared.scheduler, prepared.timesteps[i], prepared.start + i
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and c_in != 1:
        return 1.0, _sigma_of(scheduler, c_in)
    if sigmas is not None and hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        signal, noise = scheduler._sigma_to_alpha_sigma_t(sigmas[at])
        return float(signal), float(noise)
    if (forward := _forward(scheduler, t, basis)) is not None:
        return forward
    if setting(scheduler, "prediction_type") == "trigflow":
        return max(math.cos(float(t)), 0.0), float(setting(scheduler, "sigma_data", 1.0)) * math.sin(float(t))
    if hasattr(scheduler, "sqrt_alphas_cumprod"):
        return float(scheduler.sqrt_alphas_cumprod[t]), float(scheduler.sqrt_one_minus_alphas_cumprod[t])
    if hasattr(scheduler, "alphas_cumprod"):
        signal = float(scheduler.alphas_cumprod[t]) ** 0.5
        return signal, float(1 - scheduler.alphas_cumprod[t]) ** 0.5
    if sigmas is not None:
        return 1 - float(sigmas[at]), float(sigmas[at])
    if hasattr(scheduler, "alphas") and hasattr(scheduler, "betas"):
        return float(scheduler.alphas[at]), float(scheduler.betas[at])
    raise RefusedError("it does not say at which noise level its x lies")


def _sigma_of(scheduler: Any, c_in: float) -> float:
    """sigma of c_in = 1 / sqrt(sigma^2 + sigma_data^2): the nearest of its own, which has all digits."""
    sigma = math.sqrt(max(1 / c_in**2 - float(setting(scheduler, "sigma_data", 1.0)) ** 2, 0.0))
    tables = [getattr(scheduler, name, None) for name in ("sigmas", "sigmas_interpol", "mid_point_sigma")]
    own = np.concatenate([np.atleast_1d(np.asarray(table, dtype=np.float64)) for table in tables if table is not None])
    return float(own[np.nanargmin(np.abs(own - sigma))])


def _forward(scheduler: Any, t: Tensor, basis: Basis) -> Level | None:
    """What `add_noise` or `scale_noise` makes of x_0 and z; None where there is none that needs no more."""
    add_noise, scale_noise = (getattr(scheduler, name, None) for name in ("add_noise", "scale_noise"))
    first = basis.used
    x_0, z, times = basis.vector(), basis.vector(), t.reshape(1)
    if add_noise is not None and len(inspect.signature(add_noise).parameters) == 3:
        noised = add_noise(x_0, z, times)
    elif scale_noise is not None:
        noised = scale_noise(x_0, times, z)
    else:
        basis.used = first
        return None
    numbers = basis.coefficients(noised)
    basis.used = first  # they take part in nothing else
    return float(numbers[first]), float(numbers[first + 1])

"""Where rows take x, if the network is right at every call."""

import numpy as np

from fewstep.diffusion.ladders import Array
from fewstep.diffusion.schedules import Kind
from fewstep.diffusion.tracing.probe import Probe
from fewstep.diffusion.tracing.solve import Columns, Estimates

CLEAN = 1e-6  # of noise beside signal: what is left by tables in float32


def landing(columns: Columns, maps: Probe, x_0: Estimates, kind: Kind, sigma_data: float | None) -> tuple[float, float]:
    """signal and noise of x after the last row, in coordinates of that kind.

    All is a combination of x_0, of the first z and of the noise of each row. The network knows x_0, and its m says so
    at the level that it is told.
    """
    count = len(columns.a)
    data, x = np.eye(1, 2 + count)[0], np.zeros(2 + count)
    x[:2] = maps.signal_scale[0], maps.noise_scale[0]
    past: list[Array] = []
    for i in range(count):
        m = (data - x_0.said_x[i] * x) / x_0.said_m[i] if x_0.said_m[i] != 0 else np.zeros_like(x)
        kept = columns.h[i] @ np.stack([x, data, m])
        then = sum((c * h for c, h in zip(columns.c[i], past, strict=False)), np.zeros_like(x))
        x = columns.a[i] * x + columns.b[i] * data + columns.e[i] * m + then
        x[2 + i] += columns.s[i]
        past = [kept, *past][: columns.c.shape[1]]
    signal, noise = abs(float(x[0])), float(np.linalg.norm(x[1:]))
    if noise <= CLEAN * signal:
        return 1.0, 0.0
    norm = {
        "ve": signal,
        "flow": signal + noise,
        "vp": float(np.hypot(signal, noise)),
        "trig": float(np.hypot(signal, noise / (sigma_data or 1.0))),
    }[kind]
    return signal / norm, noise / norm

"""The update between two model calls written a second time: per sample, in float64 numpy, from the columns' text."""

from typing import Any

import numpy as np

from fewstep_kernels import COLUMN

Array = np.ndarray[Any, np.dtype[np.float64]]


def update_one(
    row: Array,
    x: Array,  # [C, H, W]
    cond: Array,  # [C or 2C, H, W]
    uncond: Array,
    z: Array,
    past: list[Array],  # youngest first
    gradient: Array | None = None,
    known: Array | None = None,
    mask: Array | None = None,
    z_known: Array | None = None,
) -> dict[str, Array]:
    """One sample's x', x_0, kept history and next model input."""
    c = {name: float(row[index]) for name, index in COLUMN.items()}
    channels = len(x)
    m_cond, m_uncond = cond[:channels], uncond[:channels]
    if c["w"] == 1:
        m = m_cond
    elif c["w"] == 0:
        m = m_uncond
    else:
        m = m_uncond + c["w"] * (m_cond - m_uncond)
    if c["phi"]:
        m = c["phi"] * m * m_cond.std(ddof=1) / m.std(ddof=1) + (1 - c["phi"]) * m
    if gradient is not None:
        m = m + c["g"] * gradient
    x_0 = c["k_x"] * x + c["k_m"] * m
    if c["clip_ratio"]:
        threshold = min(max(float(np.quantile(np.abs(x_0), c["clip_ratio"])), 1.0), max(c["clip"], 1.0))
        x_0 = np.clip(x_0, -threshold, threshold) / threshold
    else:
        x_0 = np.clip(x_0, -c["clip"], c["clip"])
    std = c["s"]
    if len(cond) == 2 * channels:
        fraction = (cond[channels:] + 1) / 2
        std = std * np.exp(0.5 * (fraction * c["log_var_max"] + (1 - fraction) * c["log_var_min"]))
    kept = c["h_x"] * x + c["h_0"] * x_0 + c["h_m"] * m
    updated = c["a"] * x + c["b"] * x_0 + c["e"] * m + std * z
    for j, h in enumerate(past, start=1):
        if c[f"c_{j}"]:
            updated = updated + c[f"c_{j}"] * h
    if known is not None and mask is not None and c["known_signal"]:
        updated = mask * updated + (1 - mask) * (c["known_signal"] * known + c["known_noise"] * z_known)
    return {"x": updated, "x_0": x_0, "kept": kept, "x_in": c["c_in_next"] * updated}

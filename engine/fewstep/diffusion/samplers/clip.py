"""How an estimate of x_0 is kept in range."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewstep.checks import number, only


@dataclass(frozen=True)
class Clip:
    """x_0 kept within a limit.

    ratio = 0   x_0 = clamp(x_0, -limit, limit)
    ratio > 0   x_0 = clamp(x_0, -q, q) / q, where q = clamp(quantile(|x_0|, ratio), 1, limit) per sample:
                dynamic thresholding, Saharia et al., Imagen (2205.11487), section 2.3
    """

    limit: float = 1.0
    ratio: float = 0.0

    def __post_init__(self) -> None:
        ratio = number("clip ratio", self.ratio, 0, 1)
        low = 1 if ratio > 0 else 0
        object.__setattr__(self, "ratio", ratio)
        object.__setattr__(self, "limit", number("clip limit", self.limit, low, 1e6, open_low=ratio == 0))


ClipLike = Clip | float | Mapping[str, float] | None


def clip_columns(clip: ClipLike) -> dict[str, Any]:
    """The row's clip columns for a Clip, a plain limit, {"limit": ..., "ratio": ...} as in JSON, or None."""
    if clip is None:
        return {}
    if isinstance(clip, Mapping):
        only("clip", clip, ("limit", "ratio"))
        clip = Clip(**clip)
    if not isinstance(clip, Clip):
        clip = Clip(clip)
    return {"clip": clip.limit, "clip_ratio": clip.ratio}

"""Brownian motion made of independent vectors, for the SDE solvers that came from k-diffusion."""

from bisect import bisect
from collections.abc import Callable
from typing import Any

from torch import Tensor


class Brownian:
    """noise(sigma, sigma') = (W(max) - W(min)) / sqrt(max - min) of the two, with the same path W in every call.

    Where W is known on both sides, at l < t < r, it is the bridge between them; elsewhere it goes on from its end:

    W(t) = W(l) + (t - l) / (r - l) (W(r) - W(l)) + sqrt((t - l) (r - t) / (r - l)) z,    W(t) = W(l) + sqrt(t - l) z

    Calls on intervals that overlap so give normal numbers that are correlated as they have to be. The first time asked
    for is where W is 0.

    Args:
        draw: a new independent z.
    """

    def __init__(self, draw: Callable[[], Tensor]) -> None:
        self._draw = draw
        self._times: list[float] = []
        self._path: dict[float, Tensor | float] = {}

    def __call__(self, sigma: Any, sigma_next: Any) -> Tensor:
        low, high = sorted((float(sigma), float(sigma_next)))
        increment = self._at(high) - self._at(low)
        noise: Tensor = increment / (high - low) ** 0.5
        return noise

    def _at(self, t: float) -> Any:
        if t not in self._path:
            place = bisect(self._times, t)
            self._path[t] = self._new(t, self._times[:place], self._times[place:])
            self._times.insert(place, t)
        return self._path[t]

    def _new(self, t: float, before: list[float], after: list[float]) -> Any:
        if not before and not after:
            return 0.0
        if not before or not after:
            end = before[-1] if before else after[0]
            return self._path[end] + abs(t - end) ** 0.5 * self._draw()
        left, right = before[-1], after[0]
        share = (t - left) / (right - left)
        middle = self._path[left] + share * (self._path[right] - self._path[left])
        return middle + ((t - left) * (right - t) / (right - left)) ** 0.5 * self._draw()

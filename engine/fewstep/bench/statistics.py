"""Quantiles of times, and what is known of a ratio: an interval over independent runs."""

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLED = 2000
# Student's t at 97.5 %, by degrees of freedom from 1: a table, so that nothing but numpy is needed.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def nearest_rank(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all are not above: always one that was measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def ratio_interval(ratios: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """A ratio with its 95 % interval: (ratio, low, high).

    Args:
        ratios: for each independent run, the ratio of each of its rounds, all positive.

    A run's ratio is the median over its rounds, and the answer is their geometric mean. With two runs or more the
    interval is Student's t over the logarithms of the runs' ratios. With one run it is a bootstrap of the median over
    its rounds, which knows nothing of what differs from process to process.
    """
    medians = [float(np.median(each)) for each in ratios]
    if len(medians) == 1:
        return _bootstrap(ratios[0])
    logs = np.log(medians)
    center = float(logs.mean())
    degrees = min(len(logs) - 1, len(T_975))
    half = T_975[degrees - 1] * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return math.exp(center), math.exp(center - half), math.exp(center + half)


def agree(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two intervals (low, high) have a number in common."""
    return first[0] <= second[1] and second[0] <= first[1]


def _bootstrap(ratios: Sequence[float]) -> tuple[float, float, float]:
    values = np.asarray(ratios, dtype=float)
    drawn = np.random.default_rng(0).choice(values, (RESAMPLED, len(values)))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.median(drawn, axis=1), (tail, 100 - tail)).tolist()
    return float(np.median(values)), low, high

"""Quantiles of the beta distribution, which numpy does not have."""

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

TERMS = np.arange(1, 60)  # x / 2^n falls below the rounding of a float64 within them
NEWTON = 60  # steps at most; at a = b = 0.6 five are enough


def beta_quantile(u: npt.ArrayLike, a: float, b: float) -> Array:
    """The x in [0, 1] where I_x(a, b) = u, for u in [0, 1], within 1e-12 where a and b are from 0.1 to 5.

    The lower half of x is found from below, the upper half as 1 - x with a and b exchanged, so that both ends keep
    their digits.
    """
    u = np.asarray(u, dtype=np.float64)
    low = u <= _incomplete_beta(np.array([0.5]), a, b)[0]
    x = np.empty_like(u)
    x[low] = _lower(u[low], a, b)
    x[~low] = 1 - _lower(1 - u[~low], b, a)
    return x


def _incomplete_beta(x: Array, a: float, b: float) -> Array:
    """I_x(a, b) = x^a / (a B(a, b)) (1 + a sum_n c_n x^n / (a + n)),  c_n = (1 - b)(2 - b) .. (n - b) / n!, x <= 1/2.

    The integral of x^(a - 1) (1 - x)^(b - 1), term by term. Abramowitz and Stegun, 26.5.4 and 15.1.1.
    """
    c = np.cumprod((TERMS - b) / TERMS)
    series = 1 + a * (np.power.outer(x, TERMS) * (c / (a + TERMS))).sum(axis=-1)
    return np.asarray(x**a / (a * _beta(a, b)) * series)


def _lower(u: Array, a: float, b: float) -> Array:
    """The x <= 1/2 where I_x(a, b) = u, by Newton's method on y = x^a, in which I is almost straight:

    dI / dy = (1 - x)^(b - 1) / (a B(a, b)),    from the tangent at 0, y = u a B(a, b).
    """
    scale = a * _beta(a, b)
    y = np.minimum(u * scale, 0.5**a)
    for _ in range(NEWTON):
        x = np.minimum(y ** (1 / a), 0.5)
        step = (_incomplete_beta(x, a, b) - u) * scale * (1 - x) ** (1 - b)
        y = np.clip(y - step, 0, 0.5**a)
        if (np.abs(step) <= 1e-9 * y).all():  # each step squares what is left
            break
    return np.asarray(y ** (1 / a))


def _beta(a: float, b: float) -> float:
    """B(a, b), the integral of x^(a - 1) (1 - x)^(b - 1) from 0 to 1."""
    return math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))

"""What linear multistep methods share: the order of each row, and integrals of polynomials through past answers."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fewstep.checks import flag
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.schedules import Array

FEW = 15  # calls of a run, below which `lower_order_final` counts
TERMS = 20  # of a series in |z| <= 1, whose next is below 1e-19

Orders = npt.NDArray[np.int64]


def orders(levels: Levels, order: int, lower_order_final: bool = True, euler_at_final: bool = False) -> Orders:
    """[N] how many answers each row combines: its own and those of the calls before it.

    Row i has i before it. A row that lands clean, where ln(signal / noise) is infinite, is of order 1. With
    `lower_order_final` a run of fewer than 15 calls ends with rows of order 2 and 1, with `euler_at_final` any run ends
    with one of order 1. These are the rules of diffusers' DPM-Solver++.
    """
    few = flag("lower_order_final", lower_order_final) and len(levels) < FEW
    found = np.minimum(order, np.arange(1, len(levels) + 1))
    if few:
        found[-2:] = np.minimum(found[-2:], [2, 1][-len(found) :])
    if flag("euler_at_final", euler_at_final) or levels.noise_scale[-1] == 0:
        found[-1] = 1
    return found


def half_log_snr(levels: Levels) -> Array:
    """[N + 1] lambda = ln(signal / noise); -inf where there is no signal, inf where there is no noise."""
    return levels.log_snr / 2


def steps(at: Array) -> Array:
    """[N] the length of each row on the axis of at [N + 1]; 0 where an end of it is infinitely far."""
    with np.errstate(invalid="ignore"):
        length = np.diff(at)
    return np.where(np.isfinite(length), length, 0.0)


def nodes(at: Array, order: Orders, count: int) -> Array:
    """[count, N] where the call j rows before row i was made, j < count, on an axis on which row i goes from 0 to 1.

    at [N + 1] are the levels on the method's own axis. A call that the row does not combine, or that was made
    infinitely far away, is at -inf: no polynomial feels it.
    """
    length, found = steps(at), np.full((count, len(order)), -np.inf)
    found[0] = 0.0
    for j in range(1, len(found)):
        rows = np.flatnonzero((order > j) & (length != 0))
        found[j, rows] = (at[rows - j] - at[rows]) / length[rows]
    return found


def moments(z: Array, count: int) -> Array:
    """[count, N] I_k = integral of e^((1 - u) z) u^k over u from 0 to 1, k < count: k! phi_(k+1)(z).

    I_0 = (e^z - 1) / z,    I_k = (k I_(k-1) - 1) / z;    where |z| <= 1,  I_k = k! sum_j z^j / (j + k + 1)!

    phi is that of exponential integrators; Hochbruck and Ostermann, Exponential Integrators (Acta Numerica 2010),
    equation 2.11.
    """
    small = np.abs(z) <= 1
    far, near = np.where(small, 1.0, z), np.where(small, z, 0.0)
    by_parts = [np.expm1(far) / far]
    series = []
    for k in range(count):
        if k > 0:
            by_parts.append((k * by_parts[-1] - 1) / far)
        term = np.full_like(z, 1 / (k + 1))
        total = term
        for j in range(1, TERMS):
            term = term * near / (j + k + 1)
            total = total + term
        series.append(total)
    return np.where(small, series, by_parts)


def adams(z: Array, at: Array) -> Array:
    """[J, N] w_j = integral of e^((1 - u) z) l_j(u) over u from 0 to 1, with l_j the Lagrange polynomials of `nodes`:

    l_j(u) = product over k != j of (u - u_k) / (u_j - u_k)

    so that sum_j w_j f(u_j) integrates f, up to the degree of the polynomial through its values.
    """
    integrals = moments(z, len(at))
    found = np.zeros_like(at)
    for j, own in enumerate(at):
        polynomial = np.zeros_like(at)  # its coefficients of u^0, u^1, ..
        polynomial[0] = 1.0
        for other in np.delete(at, j, axis=0):
            there = np.isfinite(own) & np.isfinite(other)
            u_j, u_k = np.where(there, own, 1.0), np.where(there, other, 0.0)
            factor = (np.roll(polynomial, 1, axis=0) - u_k * polynomial) / (u_j - u_k)
            polynomial = np.where(there, factor, polynomial)
        found[j] = np.where(np.isfinite(own), (polynomial * integrals).sum(0), 0.0)
    return found


def past(weights: Array) -> dict[str, Any]:
    """The columns c_1, c_2, .. for weights [J, N] of the calls before, youngest first; `history` is what is used."""
    used = np.flatnonzero(weights.any(axis=1))
    depth = int(used[-1]) + 1 if len(used) else 0
    return {"history": depth} | {f"c_{j + 1}": weights[j] for j in range(depth)}

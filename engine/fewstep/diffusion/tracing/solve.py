"""Rows from maps: what each call returns, by what a row has.

x' = a x + b x_0 + e m + sum_j c_j h^(-j) + s z,    h = h_x x + h_0 x_0 + h_m m of the row it comes from

An unclipped x_0 is k_x x + k_m m, so there b is 0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fewstep.diffusion.ladders import Array
from fewstep.diffusion.tracing.probe import Probe
from fewstep.diffusion.tracing.refused import RefusedError
from fewstep_kernels.row import MAX_HISTORY

NOTHING = 1e-12  # a coefficient beside the largest of its call
SAME = 1e-9  # what two directions, or a map and its solution, may differ by, of their size
COMPOSED = 1e-8  # what all rows together may differ by from the run they come from, of its size

X, X_0, M = 0, 1, 2  # of what a row keeps
# What the rows of a closed plan may keep, and how many of them are read: the plainest first. Of two numbers together
# only one is read, since two calls would have to read the same combination.
KEPT = [((part,), depth) for depth in range(1, MAX_HISTORY + 1) for part in (X_0, M, X)] + [((X, X_0), 1), ((X, M), 1)]


class Columns(NamedTuple):
    """The columns of N rows that follow from the maps."""

    a: Array  # [N]
    b: Array
    e: Array
    s: Array
    c: Array  # [N, MAX_HISTORY]
    h: Array  # [N, 3] h_x, h_0, h_m
    closed: bool

    @property
    def history(self) -> int:
        """How many past values the rows read."""
        read = np.flatnonzero((self.c != 0).any(0))
        return int(read[-1]) + 1 if len(read) else 0


@dataclass(frozen=True)
class Estimates:
    """x_0 = k_x x + k_m m of each call, as the scheduler has it where it clips, and as the network says."""

    k_x: Array  # [N]
    k_m: Array
    said_x: Array  # [N] the latter
    said_m: Array
    clipped: npt.NDArray[np.bool_]  # [N] where it is independent of x and m, as what is clipped has to be taken


def solve(maps: Probe, x_0: Estimates) -> Columns:
    """The rows, with as little history as does.

    Open rows do what the scheduler does whatever happens to x between two calls. A scheduler that keeps another state
    than past x, x_0 and m may still be rows: those that take it out of x. They are closed, since for them x has to be
    what the last row made it.

    Raises:
        RefusedError: there are no such rows.
    """
    found = _open(maps, x_0)
    return found if found is not None and _is_the_run(found, maps, x_0) else _closed(maps, x_0)


def _open(maps: Probe, x_0: Estimates) -> Columns | None:
    """Rows by the maps themselves: entry [i, i - j] is what call i reads of call i - j. None where a row cannot."""
    uses = np.stack([maps.x, maps.clipped, maps.m], axis=-1)  # [N, N, 3]
    largest = np.abs(np.concatenate([uses.reshape(len(uses), -1), maps.noise], axis=1)).max(1)
    uses = np.where(np.abs(uses) <= NOTHING * largest[:, None, None], 0.0, uses)
    noise = np.where(np.abs(maps.noise) <= NOTHING * largest[:, None], 0.0, maps.noise)
    count = len(uses)
    if any(uses[i, : max(i - MAX_HISTORY, 0)].any() for i in range(count)) or not _orthogonal(noise):
        return None
    c, h = np.zeros((count, MAX_HISTORY)), np.zeros((count, 3))
    for k in range(count):
        of_it = uses[k + 1 : k + 1 + MAX_HISTORY, k]  # [<= 4, 3] by the calls after it
        if not of_it.any():
            continue
        direction = _plain(of_it[np.linalg.norm(of_it, axis=1).argmax()], x_0, k)
        kept = _read(direction, x_0, k)
        shares = of_it @ kept / (kept @ kept)
        if np.abs(of_it - shares[:, None] * kept).max() > SAME * np.abs(of_it).max():
            return None
        h[k] = direction
        for j, share in enumerate(shares):
            c[k + 1 + j, j] = share
    now = uses[np.arange(count), np.arange(count)]
    return Columns(now[:, X], now[:, X_0], now[:, M], np.linalg.norm(noise, axis=1), c, h, closed=False)


def _orthogonal(noise: Array) -> bool:
    """Whether the noise of each call is independent of that of all others."""
    size = np.linalg.norm(noise, axis=1)
    mixed = np.abs(noise @ noise.T - np.diag(size**2))
    return bool((mixed <= SAME * np.outer(size, size)).all())


def _plain(kept: Array, x_0: Estimates, k: int) -> Array:
    """h_x, h_0, h_m of one combination of x, clipped x_0 and m, in the plainest words: x_0, m or x alone, if it is one.

    Otherwise the largest of the three is 1.
    """
    if not x_0.clipped[k] and abs(kept[X] * x_0.k_m[k] - kept[M] * x_0.k_x[k]) <= SAME * abs(kept[M] * x_0.k_x[k]):
        return np.array([0.0, 1.0, 0.0])
    found: Array = kept / kept[np.abs(kept).argmax()]
    return found


def _read(direction: Array, x_0: Estimates, k: int) -> Array:
    """h as a combination of x, clipped x_0 and m."""
    if x_0.clipped[k]:
        return direction
    h_x, h_0, h_m = direction
    return np.array([h_x + h_0 * x_0.k_x[k], 0.0, h_m + h_0 * x_0.k_m[k]])


class _Run(NamedTuple):
    """A whole run in terms of what goes into it: x at its start, each m, each clipped x_0 and each new noise."""

    x: Array  # [N + 1, dims]
    x_0: Array  # [N, dims]
    m: Array
    z: Array


def _run(maps: Probe, x_0: Estimates) -> _Run:
    """Each call reads what the last one returned."""
    count = len(maps.m)
    new = _new_noise(maps.noise)
    m, clipped, z = (
        np.hstack([np.zeros((count, 1 + i * count)), np.eye(count), np.zeros((count, (2 - i) * count))])
        for i in range(3)
    )
    x = np.zeros((count + 1, m.shape[1]))
    x[0, 0] = 1
    for i in range(count):
        x[i + 1] = maps.x[i] @ x[:-1] + maps.m[i] @ m + maps.clipped[i] @ clipped + (maps.noise[i] @ new.T) @ z
    free = x_0.k_x[:, None] * x[:-1] + x_0.k_m[:, None] * m
    return _Run(x, np.where(x_0.clipped[:, None], clipped, free), m, z)


def _new_noise(noise: Array) -> Array:
    """[N, D] for each call the normal number in its noise that no call before has, of unit variance; 0 for none.

    Gram-Schmidt, in the order of the calls, each twice for its digits.
    """
    new = np.zeros_like(noise)
    for i, each in enumerate(noise):
        rest = each - new[:i].T @ (new[:i] @ each)
        rest -= new[:i].T @ (new[:i] @ rest)
        size = np.linalg.norm(rest)
        if size > SAME * np.linalg.norm(each):
            new[i] = rest / size
    return new


def _closed(maps: Probe, x_0: Estimates) -> Columns:
    """Rows that hold for a run in which each call reads what the last one returned, and for no other.

    Rows of a short past may each be right to nearly all digits and lose them one after the other: then a longer one is
    tried.
    """
    run, lossy = _run(maps, x_0), False
    for parts, depth in KEPT:
        found = _with_history(run, x_0, parts, depth)
        if found is not None and _is_the_run(found, maps, x_0):
            return found
        lossy = lossy or found is not None
    if lossy:
        raise RefusedError("its hidden state cannot be taken out of x without loss")
    raise RefusedError("its calls read more of the past than the four values that rows keep")


def _with_history(run: _Run, x_0: Estimates, kept: tuple[int, ...], depth: int) -> Columns | None:
    """Closed rows that keep a combination of these parts and read `depth` of them; None where some row cannot."""
    count = len(run.m)
    now, c, h = np.zeros((count, 4)), np.zeros((count, MAX_HISTORY)), np.zeros((count, 3))
    parts = (run.x[:-1], run.x_0, run.m)
    for i in range(count):
        lags = range(1, min(depth, i) + 1)
        own = [run.x[i], run.x_0[i] * x_0.clipped[i], run.m[i], run.z[i]]
        terms = np.array(own + [parts[part][i - j] for j in lags for part in kept])
        found = _least(terms, run.x[i + 1])
        if found is None:
            return None
        now[i], past = found[:4], found[4:].reshape(-1, len(kept))
        for j, use in zip(lags, past, strict=True):
            if len(kept) == 1:
                c[i, j - 1], h[i - j, kept[0]] = use[0], 1.0
            else:
                c[i, j - 1], h[i - j, list(kept)] = float(use.any()), use
    return Columns(now[:, X], now[:, X_0], now[:, M], now[:, 3], c, h, closed=True)


def _least(terms: Array, target: Array) -> Array | None:
    """The least coefficients with which `terms` [K, dims] make `target`; None where none do."""
    size = np.linalg.norm(terms, axis=1)
    size = np.where(size == 0, 1.0, size)
    found = np.linalg.lstsq((terms / size[:, None]).T, target, rcond=1e-11)[0]
    scale = np.linalg.norm(target)
    found = np.where(np.abs(found) <= NOTHING * scale, 0.0, found) / size
    return found if np.linalg.norm(found @ terms - target) <= SAME * scale else None


def _is_the_run(columns: Columns, maps: Probe, x_0: Estimates) -> bool:
    """Whether all rows, one after the other, end where the run does."""
    run = _run(maps, x_0)
    x, past = run.x[0], list[Array]()
    for i in range(len(run.m)):
        estimate = run.x_0[i] if x_0.clipped[i] else x_0.k_x[i] * x + x_0.k_m[i] * run.m[i]
        kept = columns.h[i] @ np.stack([x, estimate, run.m[i]])
        then = sum((c * h for c, h in zip(columns.c[i], past, strict=False)), np.zeros_like(x))
        x = columns.a[i] * x + columns.b[i] * estimate + columns.e[i] * run.m[i] + then + columns.s[i] * run.z[i]
        past = [kept, *past][:MAX_HISTORY]
    return bool(np.linalg.norm(x - run.x[-1]) <= COMPOSED * np.linalg.norm(run.x[-1]))

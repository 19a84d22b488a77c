"""A scheduler's whole run on independent vectors: what each call makes of everything that was ever handed in."""

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.diffusion.ladders import Array
from fewstep.diffusion.tracing.basis import Basis
from fewstep.diffusion.tracing.brownian import Brownian
from fewstep.diffusion.tracing.conventions import convention, setting
from fewstep.diffusion.tracing.interception import Interception
from fewstep.diffusion.tracing.levels import level_of
from fewstep.diffusion.tracing.prepare import Prepared
from fewstep.diffusion.tracing.refused import RefusedError
from fewstep.diffusion.tracing.sight import optional_inputs

LEARNED = ("learned", "learned_range")  # values of `variance_type` where the network answers twice as many channels
ROUNDING = 1e-9  # what two float64 maps of one thing may differ by, of their size


@dataclass
class Probe:
    """N calls. x is handed to each call anew, so no call reads the last one's result: the maps are of single steps.

    Entry [i, k] of a map is the coefficient, in what call i returns, of what was handed to, or made in, call k.
    """

    x: Array  # [N, N]
    m: Array  # [N, N]
    clipped: Array  # [N, N] of the clipped x_0
    noise: Array  # [N, D] of the D normal draws of all calls
    c_in: Array  # [N]
    k_x: Array  # [N] of what is clipped; NaN where nothing is
    k_m: Array  # [N]
    limit: Array  # [N] of the clip, inf where nothing is
    ratio: Array  # [N] of a dynamic threshold, else 0
    signal_scale: Array  # [N] where x lies at the call, as the scheduler has it
    noise_scale: Array  # [N]
    log_var_min: Array  # [N] of the noise that the last channels are shares of; NaN where it is not learned
    log_var_max: Array  # [N]


@dataclass
class _Vectors:
    """Which vector of the basis is which."""

    x: list[int] = field(default_factory=list)
    m: list[int] = field(default_factory=list)
    clipped: dict[int, int] = field(default_factory=dict)  # call -> vector
    noise: list[int] = field(default_factory=list)


def probe(prepared: Prepared, step_options: Mapping[str, Any]) -> Probe:
    """The maps of the prepared scheduler.

    It is run twice, the second time on longer x and m, since what depends on their size looks linear in a single run.

    Raises:
        RefusedError: it raises an error, is not linear, or clips what is not x_0.
    """
    again = prepared._replace(scheduler=copy.deepcopy(prepared.scheduler))
    maps = _observed(prepared, step_options, Lengths(1.0, 1.0))
    others = _observed(again, step_options, Lengths(2.0, 4.0))
    for name in ("x", "m", "clipped", "noise"):
        one, other = getattr(maps, name), getattr(others, name)
        if one.shape != other.shape or (np.abs(one - other) > ROUNDING * np.abs(one).max(initial=0)).any():
            raise RefusedError("its step is not linear")
    return maps


class Lengths(NamedTuple):
    """Of the vectors that x and m are."""

    x: float
    m: float


def _observed(prepared: Prepared, step_options: Mapping[str, Any], lengths: Lengths) -> Probe:
    """Of one run."""
    scheduler, count = prepared.scheduler, len(prepared.timesteps)
    learned = setting(scheduler, "variance_type") in LEARNED
    # DPM-Solver takes the first three channels of what the network answers, however many x has.
    basis = Basis(8 * count + 8, batch=3, channels=3) if learned else Basis(8 * count + 8)
    vectors, returned, calls = _Vectors(), [], []
    arguments = _Arguments(prepared, basis, step_options)
    with torch.no_grad(), torch.device("cpu"), Interception(basis) as seen, _its_errors(scheduler, step_options):
        _take_over(scheduler, seen)
        for i in range(count):
            vectors.x.append(basis.used)
            x = basis.vector(lengths.x)
            c_in = _input_scale(scheduler, prepared.timesteps[i], basis, x, vectors.x[i]) / lengths.x
            level = level_of(prepared, i, c_in, basis)
            vectors.m.append(basis.used)
            m = basis.vector(lengths.m)
            first, made = basis.used, len(seen.clips)
            returned.append(arguments.step(i, x, m, learned))
            clips = seen.clips[made:]
            if len(clips) > 1:
                raise RefusedError("its step clips twice")
            own = [int(np.flatnonzero(basis.coefficients(each.result))[0]) for each in clips]
            vectors.clipped |= dict.fromkeys([i], own[0]) if own else {}
            vectors.noise += [each for each in range(first, basis.used) if each not in own]
            calls.append((c_in, level, clips[0] if clips else None))
    return _maps(basis, vectors, returned, calls, learned, lengths)


def _take_over(scheduler: Any, seen: Interception) -> None:
    """The noise and the clipping that a scheduler does not ask torch for."""
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = Brownian(seen.basis.vector)
    if hasattr(scheduler, "_threshold_sample"):
        limit = float(setting(scheduler, "sample_max_value", 1.0))
        ratio = float(setting(scheduler, "dynamic_thresholding_ratio", 0.995))
        scheduler._threshold_sample = lambda sample: seen.clip(sample, limit, ratio)


@contextmanager
def _its_errors(scheduler: Any, options: Mapping[str, Any]) -> Iterator[None]:
    """What the scheduler itself raises, as the reason why it is no plan."""
    try:
        yield
    except (RefusedError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        lacks = [name for name in optional_inputs(scheduler) if name not in options]
        raise RefusedError(
            f"it says: {said}" + (f" (its step also takes {', '.join(lacks)})" if lacks else "")
        ) from error


class _Arguments:
    """What a pipeline hands to `step`, by the names that `step` has."""

    def __init__(self, prepared: Prepared, basis: Basis, options: Mapping[str, Any]) -> None:
        self.scheduler, self.timesteps, self.basis = prepared.scheduler, prepared.timesteps, basis
        self.options = dict(options)
        self.names = tuple(inspect.signature(self.scheduler.step).parameters)
        self.per_sample = convention(self.scheduler).time_per_sample
        self.x_0: Tensor | None = None

    def step(self, i: int, x: Tensor, m: Tensor, learned: bool) -> Tensor:
        """What `step` returns at call i."""
        t = self.timesteps[i]
        given = {
            "model_output": torch.cat([m, self._shares(m)], dim=1) if learned else m,
            "timestep": t.expand(len(x)) if self.per_sample else t,
            "sample": x,
            "return_dict": False,
            "prev_timestep": self.timesteps[i + 1] if i + 1 < len(self.timesteps) else None,  # UnCLIP
            "timestep_back": self.timesteps[i - 1] if i > 0 else None,  # CogVideoX's DPM solver
            "old_pred_original_sample": self.x_0,
        }
        output = self.scheduler.step(**{name: given[name] for name in given if name in self.names}, **self.options)
        self.x_0 = output[1] if len(output) > 1 and self.basis.holds(output[1]) else None
        result: Tensor = output[0]
        if not self.basis.holds(result):
            raise RefusedError("its step returns no tensor of the sample's shape")
        return result

    @staticmethod
    def _shares(m: Tensor) -> Tensor:
        """The least, the middle and the largest variance, a sample of each."""
        return torch.tensor([-1.0, 0.0, 1.0], dtype=m.dtype, device="cpu").reshape(3, 1, 1, 1).expand(m.shape)


def _input_scale(scheduler: Any, t: Tensor, basis: Basis, x: Tensor, own: int) -> float:
    """c_in, by which the scheduler scales what the network is called with."""
    if not hasattr(scheduler, "scale_model_input"):
        return 1.0
    scaled = scheduler.scale_model_input(x, t)
    numbers = basis.coefficients(scaled)
    if not basis.is_linear(scaled, ROUNDING) or np.delete(numbers, own).any():
        raise RefusedError("its scale_model_input does more than to scale x")
    return float(numbers[own])


def _maps(
    basis: Basis, vectors: _Vectors, returned: list[Tensor], calls: list[Any], learned: bool, lengths: Lengths
) -> Probe:
    """The maps by what their vectors are."""
    middle = 1 if learned else 0
    for i, each in enumerate(returned):
        if not bool(torch.isfinite(each[middle]).all()):
            raise RefusedError(f"its step gives no finite number at call {i + 1}")
        if not basis.is_linear(each, ROUNDING, middle):
            raise RefusedError("its step is not linear")
    all_of = np.stack([basis.coefficients(each, middle) for each in returned])
    count = len(returned)
    clipped = np.zeros((count, count))
    for call, vector in vectors.clipped.items():
        clipped[:, call] = all_of[:, vector]
    k = np.array(list(_estimates(basis, vectors, calls, lengths)))
    low, high = _learned(basis, vectors, returned) if learned else (np.full(count, np.nan),) * 2
    return Probe(
        x=all_of[:, vectors.x] / lengths.x,
        m=all_of[:, vectors.m] / lengths.m,
        clipped=clipped,
        noise=all_of[:, vectors.noise],
        c_in=np.array([c_in for c_in, _, _ in calls]),
        k_x=k[:, 0],
        k_m=k[:, 1],
        limit=np.array([np.inf if clip is None else clip.limit for _, _, clip in calls]),
        ratio=np.array([0.0 if clip is None else clip.ratio for _, _, clip in calls]),
        signal_scale=np.array([level[0] for _, level, _ in calls]),
        noise_scale=np.array([level[1] for _, level, _ in calls]),
        log_var_min=low,
        log_var_max=high,
    )


def _estimates(basis: Basis, vectors: _Vectors, calls: list[Any], lengths: Lengths) -> Iterator[tuple[float, float]]:
    """k_x, k_m of what each call clips."""
    for i, (_, _, clip) in enumerate(calls):
        if clip is None:
            yield np.nan, np.nan
            continue
        numbers = basis.coefficients(clip.argument)
        if not np.isfinite(numbers).all():
            raise RefusedError(f"its step gives no finite number at call {i + 1}")
        own = [vectors.x[i], vectors.m[i]]
        if np.abs(np.delete(numbers, own)).max() > ROUNDING * np.abs(numbers).max():
            raise RefusedError("its step clips something else than what one call says of x_0")
        yield float(numbers[own[0]]) / lengths.x, float(numbers[own[1]]) / lengths.m


def _learned(basis: Basis, vectors: _Vectors, returned: list[Tensor]) -> tuple[Array, Array]:
    """log variance where the last channels are -1 and where they are 1; at 0 it is the mean of both."""
    low, middle, high = (
        np.array([np.linalg.norm(basis.coefficients(each, sample)[vectors.noise]) for each in returned])
        for sample in range(3)
    )
    noisy = middle > 0
    if not (np.abs(low * high - middle**2) <= 1e-6 * middle**2).all():
        raise RefusedError("its variance is learned, and not as a share of a log variance between two bounds")
    return tuple(np.where(noisy, 2 * np.log(np.where(noisy, each, 1.0)), 0.0) for each in (low, high))  # type: ignore[return-value]

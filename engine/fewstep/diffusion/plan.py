"""A plan: the table of coefficients a run is, one row per model call, in float64."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from fewstep.checks import entries, flag, number, only, real
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.schedules import Array, read_only
from fewstep.errors import ArgumentError, OvershootWarning, WastedCallWarning
from fewstep_kernels.row import COLUMN, COLUMNS, IDLE_ROW

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Halves = Literal["cond", "uncond", "both"]
FLOAT32_MAX = float(np.finfo(np.float32).max)
TOO_WIDE = 5.0  # a standard deviation beside that of the data; what is a picture still has less
NOTHING = 1e-7  # what float32 rounds away beside 1


@dataclass(frozen=True, eq=False)
class Plan:
    """What a sampler does, as numbers: an immutable value that threads can share.

    Row i takes x from level i of `levels` to level i + 1, in the levels' coordinates. A run starts from init_scale z,
    or from an image noised to level 0.

    Attributes:
        sampler: its name, for the record.
        prediction: what the network has to predict for these rows.
        levels: the N + 1 noise levels, and what the network is told at the first N.
        rows: [N, K] float64, a row per model call; the columns are those of `fewstep_kernels.row`.
        init_scale: what z is multiplied by to be the first x.
        history: how many past h = h_x x + h_0 x_0 + h_m m the rows read, at most 4.
        learned_variance: the model predicts 2C channels, the last C the share of log_var_max.
        closed: the rows recover hidden state from x, so nobody else may write to it.
        preset: the name of the preset that it was made by, for the record.
    """

    # What a column holds unless a sampler says otherwise: as in a row that does nothing, but without its x' = x.
    DEFAULTS: ClassVar[Mapping[str, float]] = dict(zip(COLUMNS, IDLE_ROW, strict=True)) | {"a": 0.0, "k_x": 0.0}

    sampler: str
    prediction: str
    levels: Levels
    rows: Array
    init_scale: float = 1.0
    history: int = 0
    learned_variance: bool = False
    closed: bool = False
    preset: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", read_only(self.rows))
        if self.rows.shape != (len(self.levels), len(COLUMNS)):
            allowed = f"[{len(self.levels)}, {len(COLUMNS)}], a row per model call"
            raise ArgumentError("rows", f"shape {list(self.rows.shape)}", allowed)
        bad = ~np.isfinite(self.rows)
        bad |= np.abs(self.rows) > FLOAT32_MAX
        bad[:, COLUMN["clip"]] = ~(self.rows[:, COLUMN["clip"]] > 0)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            value = f"{self.rows[row, column]} in column {COLUMNS[column]} of row {row}"
            raise ArgumentError("rows", value, "finite numbers (clip: positive or inf), in float32 too")

    @classmethod
    def build(
        cls,
        sampler: str,
        prediction: str,
        levels: Levels,
        *,
        init_scale: float | None = None,
        history: int = 0,
        learned_variance: bool = False,
        closed: bool = False,
        **columns: npt.ArrayLike,  # a number or N numbers per column
    ) -> Plan:
        """A plan from the columns that are not the default (no clip, no guidance, c_in = 1, all else 0).

        From the levels follow t, r = t, known_signal and known_noise; with what the network predicts, unless they are
        given, c_in, k_x and k_m (`Levels.network`); and c_in_next from c_in.
        """
        rows = np.tile(list(cls.DEFAULTS.values()), (len(levels), 1))
        known = {
            "t": levels.t,
            "r": levels.t,
            "known_signal": levels.signal_scale[1:],
            "known_noise": levels.noise_scale[1:],
        }
        if not columns.keys() >= {"c_in", "k_x", "k_m"}:
            known["c_in"], known["k_x"], known["k_m"], *_ = levels.network(prediction)
        for name, values in (known | columns).items():
            rows[:, COLUMN[name]] = values
        rows[:-1, COLUMN["c_in_next"]] = rows[1:, COLUMN["c_in"]]
        scale = levels.init_scale if init_scale is None else init_scale
        return cls(sampler, prediction, levels, rows, scale, history, learned_variance, closed)

    @classmethod
    def from_diffusers(
        cls,
        scheduler: Any,
        steps: int | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        strength: float = 1.0,
        **options: Any,
    ) -> Plan:
        """What a scheduler of diffusers does, as rows: any whose `step` is linear in x, in what the network answers and
        in normal noise. docs/traced-schedulers.md lists them all.

        The scheduler is not touched: a copy of it is run once on independent vectors in float64. x_0 is clipped as it
        clips, and where it keeps a state that no row has, the plan is closed.

        Args:
            scheduler: an object with `set_timesteps` and `step`. diffusers itself is not needed.
            steps: the number of model calls, which is not always what `set_timesteps` counts: Heun's method calls twice
                at most of its timesteps. None: as `timesteps` or `sigmas` say, or as the scheduler was set by
                `set_timesteps` and is ready to run.
            timesteps, sigmas, mu: for `set_timesteps`, where it takes them.
            strength: in (0, 1]. As in image-to-image pipelines, the last int(n strength) of n inference steps are run;
                n is the least that leaves exactly `steps` calls.
            options: what else `step` takes, such as eta or s_churn, or `set_timesteps`.

        Raises:
            ArgumentError: a scheduler that is no plan, with its class and the reason; an argument that it does not
                take; a number of calls that it cannot make, with the nearest that it can.
        """
        from fewstep.diffusion.traced import trace

        given = {"timesteps": timesteps, "sigmas": sigmas, "mu": mu}
        return trace(cls, scheduler, steps, given, strength, options)

    def __len__(self) -> int:
        """N, the number of model calls."""
        return len(self.rows)

    def column(self, name: str) -> Array:
        """[N] one column of the rows, by its name in `fewstep_kernels.row`."""
        only("column", [name], COLUMNS)
        return self.rows[:, COLUMN[name]]

    @cached_property
    def stochastic(self) -> bool:
        """Whether a run draws noise after its start."""
        return bool((self.column("s") != 0).any() or (self.column("known_fresh") != 0).any())

    @cached_property
    def statistics(self) -> bool:
        """Whether a row needs numbers of the whole sample: guidance rescale or a dynamic threshold."""
        return bool((self.column("phi") != 0).any() or (self.column("clip_ratio") != 0).any())

    @cached_property
    def second_time(self) -> bool:
        """Whether a row tells the network a second time r that is not its t."""
        return bool((self.column("r") != self.column("t")).any())

    @cached_property
    def guided(self) -> bool:
        """Whether a row needs both halves: w = 0 and w = 1 select one."""
        return bool((~np.isin(self.column("w"), (0.0, 1.0))).any())

    @cached_property
    def wasted(self) -> tuple[int, ...]:
        """The rows whose call is for nothing.

        There m is in x' neither through x_0 nor by itself, nor as a variance, nor in what a later row reads of this.

        So it is at the boundary of a consistency model, where its function is x itself, and in a step that lands on the
        level it begins at.
        """
        e, b, k_m, s = (self.column(name) for name in ("e", "b", "k_m", "s"))
        learns = self.learned_variance & (s != 0)
        # A clip between the two ways of m keeps them from cancelling.
        cancels = np.isinf(self.column("clip")) & (np.abs(e + b * k_m) <= NOTHING)
        nothing = cancels | ((np.abs(e) <= NOTHING) & (np.abs(b * k_m) <= NOTHING))
        return tuple(np.flatnonzero(nothing & ~learns & ~self._read).tolist())

    @property
    def _read(self) -> npt.NDArray[np.bool_]:
        """[N] whether a later row reads what this one leaves of m."""
        read = np.zeros(len(self), dtype=bool)
        for age in range(1, min(self.history, len(self) - 1) + 1):
            read[:-age] |= self.column(f"c_{age}")[age:] != 0
        leaves: npt.NDArray[np.bool_] = (self.column("h_m") != 0) | (self.column("h_0") * self.column("k_m") != 0)
        return read & leaves

    def warn_of_waste(self, stacklevel: int) -> None:
        """Warn of `waste`; `stacklevel` as for `warnings.warn`, from the caller."""
        if (waste := self.waste()) is not None:
            warnings.warn(waste, stacklevel=stacklevel + 1)

    def waste(self) -> WastedCallWarning | None:
        """What there is to say where a call is for nothing."""
        if not self.wasted:
            return None
        first = self.wasted[0]
        calls = f"call{'s' * (len(self.wasted) > 1)} {', '.join(str(i + 1) for i in self.wasted)} of {len(self)}"
        message = (
            f"{self.sampler}: {calls} change{'s' * (len(self.wasted) == 1)} nothing, at sigma "
            f"{self.levels.sigmas[first]:.4g}: there the network's answer has no weight; a run that ends at a higher "
            "level, or has fewer steps, gives as much for less"
        )
        return WastedCallWarning(message)

    @cached_property
    def spread(self) -> float:
        """How wide a run ends beside what is right: 1 for a good plan; see `fewstep.diffusion.spread`."""
        from fewstep.diffusion.spread import spread

        return spread(self)

    def overshoot(self) -> OvershootWarning | None:
        """What there is to say where the rows look back over steps too long for that."""
        if not self.history or self.spread <= TOO_WIDE:
            return None
        message = (
            f"{self.sampler}: {len(self)} calls end in noise, since their steps from sigma "
            f"{self.levels.sigmas[0]:.4g} are too long for the method: it would end {self.spread:.2g} times as wide as "
            "the data; take more steps, or ddim or dpmpp_2m, which do not overshoot"
        )
        return OvershootWarning(message)

    @cached_property
    def halves(self) -> Halves:
        """Which halves of a guided prediction the rows use."""
        w = self.column("w")
        if (w == 1).all():
            return "cond"
        return "uncond" if (w == 0).all() else "both"

    def with_guidance(
        self, w: float | Sequence[float], rescale: float = 0.0, interval: tuple[float, float] | None = None
    ) -> Plan:
        """The plan with m = uncond + w (cond - uncond) in each row.

        Args:
            w: one scale, or one per model call.
            rescale: phi in [0, 1] of Lin et al. (2305.08891), section 3.4, in the rows that are guided. A prediction
                that is constant over a sample is left as it is.
            interval: (low, high) Karras sigmas; a call at sigma outside low < sigma <= high has w = 1.
                Kynkäänniemi et al., Applying Guidance in a Limited Interval (2404.07724), equation 6.
        """
        allowed = f"a finite number, or {len(self)} of them, one per model call"
        listed = entries(w)
        values = [w] * len(self) if listed is None else listed
        scales = np.array([real(value) for value in values], dtype=np.float64)  # what is no number is NaN
        if len(scales) != len(self) or not (np.abs(scales) <= FLOAT32_MAX).all():
            raise ArgumentError("guidance_scale", w, allowed)
        if interval is not None:
            ends = np.array([real(end) for end in entries(interval) or ()], dtype=np.float64)
            if len(ends) != 2 or not 0 <= ends[0] < ends[1]:
                raise ArgumentError("interval", interval, "(low, high) with 0 <= low < high, in Karras sigma")
            low, high = ends
            sigmas = self.levels.sigmas[:-1]
            scales = np.where((low < sigmas) & (sigmas <= high), scales, 1.0)
        phi = np.where(np.isin(scales, (0.0, 1.0)), 0.0, number("guidance_rescale", rescale, 0, 1))
        return self._with(w=scales, phi=phi)

    def with_known(self, fresh: bool) -> Plan:
        """The plan whose known region is re-noised with fresh noise each row, or with the initial noise."""
        return self._with(known_fresh=float(flag("fresh", fresh)))

    def table(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> torch.Tensor:
        """[N + 1, len(COLUMNS)]: the rows, then an idle row that leaves x as it is."""
        return torch.tensor(np.vstack([self.rows, IDLE_ROW]), dtype=dtype, device=device)

    def describe(self, width: int | None = None) -> str:
        """The plan as an aligned table: a head line with the number of model calls, then a line per call.

        width: of the lines, from 20 characters up; as long as they are unless given.
        """
        from fewstep.diffusion.plan_view import describe

        return describe(self, width)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Noise level and coefficients per call as a figure (extra "plot"), written to `path` if given."""
        from fewstep.diffusion.plan_view import plot

        figure: Figure = plot(self, path)
        return figure

    def _with(self, **columns: npt.ArrayLike) -> Plan:
        rows = np.array(self.rows)
        for name, values in columns.items():
            rows[:, COLUMN[name]] = values
        return replace(self, rows=rows)

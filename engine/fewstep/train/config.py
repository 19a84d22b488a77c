"""The settings of a training run: frozen, checked, read from TOML and flags, kept as JSON in every checkpoint."""

import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

from fewstep.checks import flag, integer, number
from fewstep.diffusion.forward import PREDICTIONS
from fewstep.diffusion.schedules import Schedule, from_config
from fewstep.errors import ArgumentError, shown
from fewstep.fields import Fields
from fewstep.models.net.config import UNetConfig
from fewstep.train.npz import MAX_SIDE

TRAINED: Final = tuple(each for each in PREDICTIONS if each != "score")  # which is eps, scaled
DTYPES: Final = ("float32", "bfloat16")
DECAYS: Final = ("cosine", "constant")
MAX_STEPS: Final = 100_000_000
MAX_TOML_BYTES: Final = 1 << 20
MAX_TOML_DOTS: Final = 1000  # beside those in numbers: a key of n dots takes tomllib n^2 steps, 30 s for 32,000
NUMBER: Final = re.compile(r"(?<![\w.+-])[+-]?\d[\d_]*\.\d[\d_]*(?:[eE][+-]?\d+)?(?![\w.])")

Config = TypeVar("Config", bound="FitConfig")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How the weights are found, whatever the loss. A value out of bounds raises ArgumentError naming its field."""

    steps: int = 10_000
    batch: int = 128
    learning_rate: float = 1e-3
    warmup: int = 500  # steps over which the learning rate rises from 0
    decay: str = "cosine"  # to 0 at the last step; or "constant"
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # of all gradients together
    ema: float = 0.999
    seed: int = 0
    dtype: str = "float32"  # of the network's products: "bfloat16" is autocast, the weights stay float32
    log_every: int = 50
    checkpoint_every: int = 1000
    keep: int = 2  # checkpoints
    sheet_every: int = 2000  # 0: none

    def __post_init__(self) -> None:
        check = Checks(self)
        for name, low in (("steps", 1), ("batch", 1), ("warmup", 0), ("log_every", 1), ("checkpoint_every", 1)):
            check.integer(name, low, MAX_STEPS)
        check.integer("sheet_every", 0, MAX_STEPS)
        check.integer("keep", 1, 1000)
        check.integer("seed", 0, 2**64 - 1)
        check.number("learning_rate", 0, 10, open_low=True)
        check.number("weight_decay", 0, 100)
        check.number("clip_norm", 0, 1e9, open_low=True)
        check.number("ema", 0, 1, open_high=True)
        check.choice("dtype", DTYPES)
        check.choice("decay", DECAYS)

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it; `from_dict` is the inverse."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any], base: Config | None = None) -> Config:
        """`base`, or the defaults, with these values in their place. ArgumentError names an unknown field."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                allowed = f"did you mean {near[0]}?" if near else ", ".join(known)
                raise ArgumentError(shown(name).strip("'"), "an unknown setting", allowed)
        return cls(**values) if base is None else replace(base, **values)

    @classmethod
    def from_toml(cls: type[Config], path: Path, base: Config | None = None) -> Config:
        """As `from_dict`, from a file; errors start with its name."""
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
                raise ArgumentError("config", str(path), "a TOML file; it is not a regular file")
            if status.st_size > MAX_TOML_BYTES:
                raise ArgumentError("config", str(path), f"a TOML file of at most {MAX_TOML_BYTES:,} bytes")
            text = path.read_text(encoding="utf-8")
            if text.count(".") - len(NUMBER.findall(text)) > MAX_TOML_DOTS:
                raise ValueError(f"it has more than {MAX_TOML_DOTS} dots outside of numbers")
            values = tomllib.loads(text)
        except ArgumentError:  # which is a ValueError
            raise
        except OSError as error:
            raise ArgumentError("config", str(path), f"a TOML file; {(error.strerror or str(error)).lower()}") from None
        except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, or of a number with too many digits
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
            raise ArgumentError("config", str(path), f"a TOML file; {reason}") from None
        try:
            return cls.from_dict(values, base)
        except ArgumentError as error:
            raise ArgumentError(f"{path}: {error.argument}", error.value, error.allowed) from None


@dataclass(frozen=True, kw_only=True)
class TrainConfig(FitConfig):
    """`fewstep train`: what is learnt from what. The defaults are the digits' teacher."""

    data: str = "digits"  # or a path: see `fewstep.train.data.load_data`
    size: int | None = None  # to which pictures are scaled
    prediction: str = "v"
    schedule: dict[str, Any] = field(default_factory=lambda: {"name": "cosine", "num_timesteps": 1000})
    min_snr_gamma: float = 5.0  # 0: every timestep weighs the same in the prediction's own units
    learned_range: bool = False  # also learn the variance, by the hybrid loss
    vlb_weight: float = 1e-3  # lambda of that loss
    label_dropout: float = 0.1  # the share of labels that become the null class; 0: there is none
    unet: dict[str, Any] = field(default_factory=lambda: {"channels": [16, 16, 48, 96]})  # fields of UNetConfig
    sample_steps: int = 50  # of the sheets, and of the finished model unless asked otherwise; all where there are fewer
    licence: str = ""  # of the finished model; by default what the data's is

    def __post_init__(self) -> None:
        super().__post_init__()
        check = Checks(self)
        for name in ("data", "licence"):
            check.text(name)
        if self.size is not None:
            check.integer("size", 1, MAX_SIDE)
        check.choice("prediction", TRAINED)
        check.number("min_snr_gamma", 0, 1e6)
        check.flag("learned_range")
        check.number("vlb_weight", 0, 1e6)
        check.number("label_dropout", 0, 1, open_high=True)
        check.integer("sample_steps", 1, 1000)
        if not isinstance(self.unet, Mapping):
            raise ArgumentError("unet", self.unet, "a table of U-Net fields, such as channels = [16, 32, 64]")
        self.noise_schedule()

    def noise_schedule(self) -> Schedule:
        """The schedule, checked to suit the prediction and its weights."""
        schedule = from_config(self.schedule)
        wanted = "flow" if self.prediction == "flow" else "vp"
        if schedule.kind != wanted or len(schedule) < 2 or schedule.sigma_data is not None:
            allowed = f"for {self.prediction}, one of kind {wanted!r} with at least two timesteps and no sigma_data"
            raise ArgumentError("schedule", schedule.name, allowed)
        if schedule.signal_scale[-1] == 0 and self.prediction == "eps":
            raise ArgumentError("prediction", "eps", "x_0 or v, where the last timestep has no signal")
        if schedule.signal_scale[-1] == 0 and self.min_snr_gamma > 0:
            allowed = "0, where the last timestep has no signal: min(SNR, gamma) would give it no weight"
            raise ArgumentError("min_snr_gamma", self.min_snr_gamma, allowed)
        return schedule


def unet_config(unet: Mapping[str, Any], channels: int, classes: int | None, learned_range: bool) -> UNetConfig:
    """The U-Net of a `[unet]` table, for images of so many channels; what the table leaves out follows from its widths.

    Raises ModelError naming the field.
    """
    given = dict(unet)
    for name in ("in_channels", "out_channels", "num_classes", "label_range"):
        if name in given:
            raise ArgumentError(f"unet: {name}", given[name], "nothing: it follows from the data")
    widths = given.get("channels")
    levels = len(widths) if isinstance(widths, list | tuple) else 0
    defaults: dict[str, Any] = {
        "layers": 1,
        "down_attention": [False] * levels,
        "up_attention": [False] * levels,
        "down": ["conv"] * max(levels - 1, 0),
        "up": ["conv"] * max(levels - 1, 0),
        "heads": 2,
        "groups": 8,
        "mid_attention_groups": 8,
        "scale_shift": True,
        "embed_channels": 128,
    }
    from_data = {
        "in_channels": channels,
        "out_channels": channels * (2 if learned_range else 1),
        "num_classes": classes,
    }
    return UNetConfig.from_dict(Fields({**defaults, **given, **from_data}, "unet").data, "unet")


class Checks:
    """Checks of one field of a frozen dataclass at a time; what is right is stored in the field's own type."""

    def __init__(self, config: object) -> None:
        self._config = config

    def integer(self, name: str, low: int, high: int) -> None:
        self._set(name, integer(name, self._get(name), low, high))

    def number(self, name: str, low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> None:
        self._set(name, number(name, self._get(name), low, high, open_low=open_low, open_high=open_high))

    def choice(self, name: str, allowed: tuple[str, ...]) -> None:
        value = self._get(name)
        if value not in allowed:
            raise ArgumentError(name, value, " or ".join(allowed))

    def text(self, name: str) -> None:
        value = self._get(name)
        if not isinstance(value, str) or len(value) > 4096:
            raise ArgumentError(name, value, "a text of at most 4096 characters")

    def flag(self, name: str) -> None:
        self._set(name, flag(name, self._get(name)))

    def _get(self, name: str) -> object:
        return getattr(self._config, name)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self._config, name, value)

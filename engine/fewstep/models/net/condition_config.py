"""How a U-Net is conditioned on more than a class and a time: cross-attention, and what else steers its blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fewstep.errors import ModelError
from fewstep.fields import Fields

MAX_WIDTH: Final = 65_536
MAX_DEPTH: Final = 100


@dataclass(frozen=True)
class ConditionConfig:
    """The condition of a Stable Diffusion U-Net (Rombach et al. 2022, 2112.10752; Podell et al. 2023, 2307.01952).

    `down` and `up` have an entry for each residual block of the way down and up, in the order in which they run: how
    many blocks the transformer behind it has, 0 where there is none. `heads` and `only_cross` have one for each level,
    from the finest to the coarsest. A config that cannot be built raises ModelError naming the field and its bounds.
    """

    context_width: int  # of the text embedding that cross-attention looks at
    down: tuple[int, ...]
    up: tuple[int, ...]
    mid: int  # blocks of the transformer in the middle
    heads: tuple[int, ...]  # of attention, at each level
    only_cross: tuple[bool, ...]  # whether a block's first attention looks at the context too; never in the middle
    context_input: int | None = None  # of the embedding that is given, where it is projected to `context_width` first
    label_width: int | None = None  # of a vector in the place of a class (Ramesh et al. 2022, 2204.06125)
    added_width: int | None = None  # of the pooled text and the embedded sizes side by side, as in SDXL
    size_channels: int | None = None  # of each embedded size
    guidance_channels: int | None = None  # of the guidance scale's embedding, as in Latent Consistency Models

    @property
    def given_width(self) -> int:
        """Of the embedding that is given as the context."""
        return self.context_input or self.context_width

    @classmethod
    def read(cls, read: Fields, levels: int, layers: int) -> "ConditionConfig":
        """The config that fields describe, for a U-Net of so many levels and residual blocks a level."""
        values: dict[str, Any] = {
            "context_width": read.integer("context_width", 1, MAX_WIDTH),
            "down": read.integers("down", 0, MAX_DEPTH),
            "up": read.integers("up", 0, MAX_DEPTH),
            "mid": read.integer("mid", 0, MAX_DEPTH),
            "heads": read.integers("heads", 1, MAX_WIDTH),
            "only_cross": read.flags("only_cross"),
            "context_input": read.optional_integer("context_input", 1, MAX_WIDTH),
            "label_width": read.optional_integer("label_width", 1, MAX_WIDTH),
            "added_width": read.optional_integer("added_width", 1, MAX_WIDTH),
            "size_channels": read.optional_integer("size_channels", 1, MAX_WIDTH),
            "guidance_channels": read.optional_integer("guidance_channels", 4, MAX_WIDTH),
        }
        read.finish()
        counts = {"down": levels * layers, "up": levels * (layers + 1), "heads": levels, "only_cross": levels}
        for name, count in counts.items():
            if len(values[name]) != count:
                allowed = f"{count}, for {levels} levels of {layers} residual blocks"
                raise read.error(name, f"has {len(values[name])} entries; allowed: {allowed}")
        if (values["added_width"] is None) != (values["size_channels"] is None):
            raise read.error("size_channels", "is given beside no added_width, or the other way round; allowed: both")
        return cls(**values)

    def depths(self, levels: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """`down` and `up` level by level, both from the finest to the coarsest, each level in the order it runs."""
        layers = len(self.down) // levels
        down = [self.down[level * layers : (level + 1) * layers] for level in range(levels)]
        up = [self.up[level * (layers + 1) : (level + 1) * (layers + 1)] for level in range(levels)]
        return down, up[::-1]

    def check_heads(self, channels: tuple[int, ...], where: str) -> None:
        """ModelError for heads that do not divide the channels of a level that has a transformer."""
        down, up = self.depths(len(channels))
        for level, (width, heads) in enumerate(zip(channels, self.heads, strict=True)):
            attends = any(down[level]) or any(up[level]) or (self.mid and level == len(channels) - 1)
            if attends and width % heads:
                raise ModelError(f"{where}[{level}]: got {heads}; allowed: a divisor of {width} channels")


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as JSON stores them: tuples as lists, also in what is nested."""

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else as_json(value) if isinstance(value, Mapping) else value

    return {name: plain(value) for name, value in values.items()}

"""What a U-Net is built from: numbers and choices, checked before anything is allocated."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Final

from fewstep.fields import Fields, shown
from fewstep.models.net.condition_config import ConditionConfig, as_json

MAX_CHANNELS: Final = 16_384
MAX_LEVELS: Final = 10
MAX_LAYERS: Final = 32
MAX_CLASSES: Final = 1_000_000

TIME_EMBEDDINGS: Final = ("sinusoidal", "fourier", "fourier_of_t")
SECOND_TIMES: Final = ("added", "joined")
LABEL_PLACES: Final = ("embedding", "features")
RESAMPLE_FILTERS: Final = ((1, 1), (1, 3, 3, 1))
DOWN: Final = ("conv", "conv_asymmetric", "block")
UP: Final = ("conv", "block")
ACTIVATIONS: Final = ("silu", "gelu", "mish", "relu")


@dataclass(frozen=True)
class UNetConfig:
    """A U-Net of the pixel DDPM / ADM family (Ho et al. 2020; Dhariwal and Nichol 2021; Karras et al. 2022).

    Tuples with one entry a level run from the finest level to the coarsest; `down` and `up` have one entry for
    each change of resolution between neighbouring levels. A config that cannot be built raises ModelError naming
    the field and its bounds.
    """

    in_channels: int
    out_channels: int  # twice the image's channels where the variance is learned
    channels: tuple[int, ...]  # the width of each level
    layers: int  # residual blocks a level on the way down; one more on the way up
    down_attention: tuple[bool, ...]  # attention after each residual block of the level
    up_attention: tuple[bool, ...]
    down: tuple[str, ...]  # "conv": stride 2; "conv_asymmetric": padded right and bottom only; "block": mean in a block
    up: tuple[str, ...]  # "conv": nearest, then conv; "block": nearest in a residual block
    stem: int | None = None  # channels of the input convolution; None: channels[0]
    up_attention_last: bool = False  # on the way up attention follows the last block of a level alone
    resample_filter: tuple[int, ...] = (1, 1)  # of a resampling block, along each side: (1, 1) or (1, 3, 3, 1)
    skip_projection: bool = False  # what passes by a resampling block goes through a 1x1 convolution
    pyramid: bool = False  # what enters a level joins in again behind its halving, through a convolution of its own
    block_scale: float = 1.0  # what the sum that ends each layer outside the middle is divided by
    mid_block: bool = True  # whether anything stands between the way down and the way up
    mid_attention: bool = True  # attention between its two residual blocks
    mid_scale: float = 1.0  # what the sum that ends each of its layers is divided by
    head_dim: int | None = None  # channels of an attention head; None: `heads` heads at every level
    heads: int = 1
    groups: int = 32
    group_channels: int | None = None  # channels that a group has at least, with fewer groups where it takes that
    mid_attention_groups: int | None = 32  # groups of the norm before the middle attention; None: no norm there
    eps: float = 1e-5
    activation: str = "silu"  # of the residual blocks; see `outer_activation`
    scale_shift: bool = False  # norm(h) (1 + scale) + shift instead of norm(h + shift)
    # "fourier": fixed random frequencies of log t, and the output divided by t; "fourier_of_t": of t, and no division
    time_embedding: str = "sinusoidal"
    time_channels: int | None = None  # length of the sinusoid, or number of random frequencies; None: channels[0]
    embed_channels: int | None = None  # None: 4 * channels[0]
    cos_first: bool = True
    freq_shift: float = 0.0
    num_classes: int | None = None  # rows of the class embedding, a null class included
    label_place: str = "embedding"  # where a class is added: to the embedding of t, or to the "features" it is made of
    label_range: tuple[float, float] | None = None  # a float label, mapped to 0..1 from this range, instead of classes
    guidance_range: tuple[float, float] | None = None  # the guidance scale as an input, mapped to 0..1 from this range
    # A second time r, as of a flow map: "added" by an embedding of its own, or its features "joined" to those of t
    second_time: str | None = None
    dropout: float = 0.0
    center_input: bool = False  # 2 x - 1 first
    condition: ConditionConfig | None = None  # what Stable Diffusion has beyond classes: cross-attention and more

    def __post_init__(self) -> None:
        _checked(Fields(asdict(self), "UNetConfig"))

    @property
    def levels(self) -> int:
        """Resolutions the U-Net works at."""
        return len(self.channels)

    @property
    def time_width(self) -> int:
        """`time_channels`, or its default."""
        return self.time_channels or self.channels[0]

    @property
    def embed_width(self) -> int:
        """`embed_channels`, or its default."""
        return self.embed_channels or 4 * self.channels[0]

    @property
    def stem_width(self) -> int:
        """`stem`, or its default."""
        return self.stem or self.channels[0]

    @property
    def outer_activation(self) -> str:
        """Of the embedding of t and in front of the output: SiLU, but where the U-Net has cross-attention."""
        return "silu" if self.condition is None else self.activation

    @property
    def kept(self) -> list[int]:
        """Widths of what the way down keeps, in order: input convolution, then each stage and each halving."""
        return _kept(self.stem_width, self.channels, self.layers)

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this."""
        return int(2 ** (self.levels - 1))

    def groups_of(self, channels: int) -> int:
        """Groups of a norm of so many channels."""
        return _groups(channels, self.groups, self.group_channels)

    def heads_of(self, channels: int) -> int:
        """Attention heads of a layer with so many channels."""
        return self.heads if self.head_dim is None else channels // self.head_dim

    def head_width(self, channels: int) -> int:
        """Channels of one of those heads; where `head_dim` does not divide, all together have fewer than the layer."""
        return channels // self.heads if self.head_dim is None else self.head_dim

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it; `from_dict` is the inverse."""
        values = as_json(asdict(self))
        if self.condition is None:
            del values["condition"]  # files from before there was one say the same
        return values

    @classmethod
    def from_dict(cls, data: Any, where: str = "UNetConfig", names: Mapping[str, str] | None = None) -> "UNetConfig":
        """The config that JSON data describes.

        Unknown and missing fields, wrong types and values out of bounds raise ModelError, `where` in front. `names` are
        what the messages call fields that the file has under other names.
        """
        given = Fields(data, where).data
        defaults: dict[str, Any] = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
        return cls(**_checked(Fields({**defaults, **given}, where, names)))


def _checked(read: Fields) -> dict[str, Any]:
    values: dict[str, Any] = {
        "in_channels": read.integer("in_channels", 1, MAX_CHANNELS),
        "out_channels": read.integer("out_channels", 1, MAX_CHANNELS),
        "channels": read.integers("channels", 1, MAX_CHANNELS),
        "layers": read.integer("layers", 1, MAX_LAYERS),
        "down_attention": read.flags("down_attention"),
        "up_attention": read.flags("up_attention"),
        "down": read.choices("down", DOWN),
        "up": read.choices("up", UP),
        "stem": read.optional_integer("stem", 1, MAX_CHANNELS),
        "up_attention_last": read.flag("up_attention_last"),
        "resample_filter": read.integers("resample_filter", 1, MAX_CHANNELS),
        "skip_projection": read.flag("skip_projection"),
        "pyramid": read.flag("pyramid"),
        "block_scale": read.number("block_scale", 1e-6, 1e6),
        "mid_block": read.flag("mid_block"),
        "mid_attention": read.flag("mid_attention"),
        "mid_scale": read.number("mid_scale", 1e-6, 1e6),
        "head_dim": read.optional_integer("head_dim", 1, MAX_CHANNELS),
        "heads": read.integer("heads", 1, MAX_CHANNELS),
        "groups": read.integer("groups", 1, MAX_CHANNELS),
        "group_channels": read.optional_integer("group_channels", 1, MAX_CHANNELS),
        "mid_attention_groups": read.optional_integer("mid_attention_groups", 1, MAX_CHANNELS),
        "eps": read.number("eps", 1e-12, 1.0),
        "activation": read.choice("activation", ACTIVATIONS),
        "scale_shift": read.flag("scale_shift"),
        "time_embedding": read.choice("time_embedding", TIME_EMBEDDINGS),
        "time_channels": read.optional_integer("time_channels", 2, MAX_CHANNELS),
        "embed_channels": read.optional_integer("embed_channels", 1, 4 * MAX_CHANNELS),
        "cos_first": read.flag("cos_first"),
        "freq_shift": read.number("freq_shift", -MAX_CHANNELS, MAX_CHANNELS),
        "num_classes": read.optional_integer("num_classes", 1, MAX_CLASSES),
        "label_place": read.choice("label_place", LABEL_PLACES),
        "label_range": read.numbers("label_range", -1e9, 1e9) if read.has("label_range") else None,
        "guidance_range": read.numbers("guidance_range", -1e9, 1e9) if read.has("guidance_range") else None,
        "second_time": read.optional_choice("second_time", SECOND_TIMES),
        "dropout": read.number("dropout", 0.0, 0.99),
        "center_input": read.flag("center_input"),
        "condition": None,
    }
    if read.has("condition"):
        levels, layers = len(values["channels"]), values["layers"]
        values["condition"] = ConditionConfig.read(read.child("condition"), levels, layers)
    read.finish()
    _check_levels(read, values)
    _check_widths(read, values)
    _check_embeddings(read, values)
    return values


def _check_levels(read: Fields, values: dict[str, Any]) -> None:
    levels, widths = len(values["channels"]), read.called("channels")
    if not 1 <= levels <= MAX_LEVELS:
        raise read.error("channels", f"has {levels} levels; allowed: 1 to {MAX_LEVELS}")
    for name, count in (
        ("down_attention", levels),
        ("up_attention", levels),
        ("down", levels - 1),
        ("up", levels - 1),
    ):
        if len(values[name]) != count:
            allowed = f"{count}, for {levels} levels of {widths}"
            raise read.error(name, f"has {len(values[name])} entries; allowed: {allowed}")


def _check_widths(read: Fields, values: dict[str, Any]) -> None:
    head_dim, heads = values["head_dim"], values["heads"]
    attends_mid = values["mid_block"] and values["mid_attention"]
    for level, channels in enumerate(values["channels"]):
        of = f"{read.called('channels')}[{level}]"
        _check_groups(read, values, channels, of)
        attends = values["down_attention"][level] or values["up_attention"][level]
        if attends or (attends_mid and level == len(values["channels"]) - 1):
            if head_dim is None and channels % heads:
                raise read.error("heads", f"got {heads}; allowed: a divisor of {of} = {channels}")
            if head_dim is not None and head_dim > channels:
                raise read.error("head_dim", f"got {head_dim}; allowed: at most {of} = {channels}")
    if values["stem"] is not None:
        _check_groups(read, values, values["stem"], read.called("stem"))
    for channels in _joined(values):
        _check_groups(read, values, channels, "the channels of a block on the way up")
    if values["condition"] is not None:
        values["condition"].check_heads(values["channels"], read.at("condition.heads"))
    mid_groups, coarsest = values["mid_attention_groups"], values["channels"][-1]
    if attends_mid and mid_groups is not None and coarsest % mid_groups:
        of = f"{read.called('channels')}[-1]"
        raise read.error("mid_attention_groups", f"got {mid_groups}; allowed: a divisor of {of} = {coarsest}")


def _check_groups(read: Fields, values: dict[str, Any], channels: int, of: str) -> None:
    groups, least = values["groups"], values["group_channels"]
    if least is not None and least > channels:
        raise read.error("group_channels", f"got {least}; allowed: at most {of} = {channels}")
    found = _groups(channels, groups, least)
    if channels % found:
        fewer = "" if found == groups else f", of which {found} are left"
        raise read.error("groups", f"got {groups}{fewer}; allowed: a divisor of {of} = {channels}")


def _groups(channels: int, groups: int, least: int | None) -> int:
    return groups if least is None else min(groups, channels // least)


def _kept(stem: int, channels: tuple[int, ...], layers: int) -> list[int]:
    kept = [stem]
    for level, width in enumerate(channels):
        kept += [width] * (layers + (level < len(channels) - 1))
    return kept


def _joined(values: dict[str, Any]) -> list[int]:
    """Channels that enter each block of the way up: those of the one before, and those that were kept."""
    channels, layers = values["channels"], values["layers"]
    kept, before, joined = _kept(values["stem"] or channels[0], channels, layers), channels[-1], []
    for width in reversed(channels):
        for _ in range(layers + 1):
            joined.append(before + kept.pop())
            before = width
    return joined


def _check_embeddings(read: Fields, values: dict[str, Any]) -> None:
    half = (values["time_channels"] or values["channels"][0]) // 2
    if values["time_embedding"] == "sinusoidal" and values["freq_shift"] >= half:
        why = f"allowed: less than {half}, half the length of the sinusoid"
        raise read.error("freq_shift", f"got {values['freq_shift']:g}; {why}")
    if values["resample_filter"] not in RESAMPLE_FILTERS:
        allowed = " or ".join(str(list(each)) for each in RESAMPLE_FILTERS)
        raise read.error("resample_filter", f"got {shown(list(values['resample_filter']))}; allowed: {allowed}")
    if values["label_place"] == "features" and values["num_classes"] is None:
        raise read.error("label_place", "got 'features' without num_classes; allowed: 'embedding'")
    if values["condition"] is not None:
        _check_condition(read, values)
    if values["second_time"] is not None and values["time_embedding"] == "fourier":
        raise read.error("second_time", "is given beside 'fourier', and r may be 0, which has no logarithm")
    if values["label_range"] is not None and values["num_classes"] is not None:
        raise read.error("label_range", "is given beside num_classes; allowed: one kind of label")
    for name in ("label_range", "guidance_range"):
        ends = values[name]
        if ends is not None and (len(ends) != 2 or ends[0] >= ends[1]):
            raise read.error(name, f"got {shown(list(ends))}; allowed: two numbers, the smaller first")


def _check_condition(read: Fields, values: dict[str, Any]) -> None:
    """What a U-Net with cross-attention has no use for, or says in its own way."""
    if values["second_time"] is not None:
        raise read.error("second_time", "is given beside a condition; allowed: None")
    if any(values["down_attention"]) or any(values["up_attention"]):
        raise read.error("down_attention", "is given beside a condition, whose transformers attend; allowed: false")
    for name in ("label_range", "guidance_range"):
        if values[name] is not None:
            raise read.error(name, "is given beside a condition; allowed: null")
    if values["condition"].label_width is not None and values["num_classes"] is not None:
        raise read.error("num_classes", "is given beside condition.label_width; allowed: one kind of label")

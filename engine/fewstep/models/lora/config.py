"""What says the scale of a PEFT LoRA beside its tensors: adapter_config.json, or diffusers' metadata in the file."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from fewstep.errors import ModelError
from fewstep.fields import Fields, integer, number, parse_json, shown
from fewstep.models.lora.formats import NETWORK, TEXT_ENCODERS

T = TypeVar("T")
METADATA: Final = "lora_adapter_metadata"  # diffusers' name in the header of a file
MAX_RANK: Final = 1 << 20
MAX_ALPHA: Final = 1e9

# Fields that say how it was trained, and nothing of what its factors mean.
_OF_TRAINING: Final = (
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "monteclora_config",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
)
_READ: Final = (
    "peft_type",
    "bias",
    "init_lora_weights",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
)
# What starts from changed weights, of which the file has only the difference, is none of these.
_STARTS: Final = ("gaussian", "orthogonal", "eva")
_LITERAL: Final = re.compile(r"\^?(?:[\w.-]|\\\.)+\$?")


@dataclass(frozen=True)
class Scales:
    """alpha and rank of a LoRA, and those of single layers: scale = alpha / r, or alpha / sqrt(r) for rsLoRA.

    rsLoRA: Kalajdzievski 2023, A Rank Stabilization Scaling Factor, 2312.03732.
    """

    rank: int
    alpha: float
    stabilized: bool
    ranks: Mapping[str, int]  # the end of a layer's name -> its own
    alphas: Mapping[str, float]

    def of(self, layer: str, rank: int, where: str) -> float:
        """The scale of a layer whose factors have this rank. ModelError where the config says another rank."""
        said = _of(self.ranks, layer, self.rank)
        if said != rank:
            raise ModelError(f"{where} has rank {rank}; its config says {said}")
        return _of(self.alphas, layer, self.alpha) / (math.sqrt(rank) if self.stabilized else rank)


def of_folder(data: Any, where: str) -> Mapping[str, Scales]:
    """The scales that an adapter_config.json says, by part. A folder of PEFT's is of one network.

    ModelError, `where` in front, for a field that makes it something else than a plain LoRA.
    """
    return dict.fromkeys((NETWORK, *TEXT_ENCODERS), _scales(Fields(data, where)))


def of_metadata(metadata: Mapping[str, str], where: str) -> Mapping[str, Scales]:
    """The scales in the header of a file that diffusers wrote, by part, if there are any. Raises as `of_folder`."""
    if METADATA not in metadata:
        return {}
    where = f"{where}: {METADATA}"
    parts: dict[str, dict[str, Any]] = {}
    for name, value in parse_json(metadata[METADATA].encode(), where).items():
        # A pipeline's file says the part of each field; a U-Net's own file has no parts.
        part, dot, own = name.partition(".")
        parts.setdefault(part if dot else NETWORK, {})[own if dot else name] = value
    return {part: _scales(Fields(own, f"{where}: {part}")) for part, own in parts.items()}


def _scales(read: Fields) -> Scales:
    read.only("peft_type", "LORA", "LORA")
    read.only("bias", "none", "none")
    start = read.data.get("init_lora_weights", True)
    if not isinstance(start, bool) and start not in _STARTS:
        raise read.error("init_lora_weights", f"got {shown(start)}; supported: true, false, {', '.join(_STARTS)}")
    scales = Scales(
        read.integer("r", 1, MAX_RANK),
        read.number("lora_alpha", -MAX_ALPHA, MAX_ALPHA),
        read.flag("use_rslora", False),
        {name: integer(value, 1, MAX_RANK, at) for name, value, at in _pattern(read, "rank_pattern")},
        {name: number(value, -MAX_ALPHA, MAX_ALPHA, at) for name, value, at in _pattern(read, "alpha_pattern")},
    )
    for name, value in read.data.items():
        if value and name not in (*_READ, *_OF_TRAINING):
            raise read.error(name, f"got {shown(value)}; supported: a plain LoRA, which has none")
    return scales


def _pattern(read: Fields, name: str) -> list[tuple[str, Any, str]]:
    """The entries of a table by layer. Its keys are patterns to PEFT; only those that are names are read."""
    if not read.has(name):
        return []
    table = read.child(name)
    for key in table.data:
        if not _LITERAL.fullmatch(key):
            raise ModelError(f"{table.where}: got {shown(key)}; supported: names of layers, not patterns of them")
    return [(key.replace("\\.", ".").removesuffix("$"), value, table.at(key)) for key, value in table.data.items()]


def _of(table: Mapping[str, T], layer: str, otherwise: T) -> T:
    """The entry of a layer: the first whose key is the layer's name, or its end; or all of it, with ^ in front."""
    for key, value in table.items():
        whole = key.removeprefix("^")
        if layer == whole or (whole == key and layer.endswith(f".{key}")):
            return value
    return otherwise

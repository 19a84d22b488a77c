"""The families of LoRA files by the names of their tensors: which two are the factors of one layer's update.

    PEFT        unet.down_blocks.0.attentions.0.to_q.lora_A.weight, lora_B; a config beside it has alpha
    diffusers   unet.down_blocks.0.attentions.0.processor.to_q_lora.down.weight, up; or to_q.lora.down.weight
    kohya       lora_unet_down_blocks_0_attentions_0_to_q.lora_down.weight, lora_up, alpha

What of a file is no such factor is refused: a part that is left out would change what the rest means.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fewstep.errors import ModelError, some_of
from fewstep.fields import shown

NETWORK: Final = "unet"  # the part of a file whose names say no part
TEXT_ENCODERS: Final = ("text_encoder", "text_encoder_2")
TEXT_MODEL: Final = "text_model."  # what transformers before 5 called the inside of a text encoder
NAMED: Final = 5  # names in a message, at most

_FACTOR: Final = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<letter>[AB])(?:\.[\w-]+)?"
    r"|(?P<old>_lora|[._]lora(?:_linear_layer)?)[._](?P<word>down|up))\.weight"
)
_ALPHA: Final = re.compile(r"(?P<layer>.+?)(?P<old>_lora|\.lora(?:_linear_layer)?)?\.alpha")
_KOHYA_PARTS: Final = {
    "lora_unet_": NETWORK,
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
_DOTTED_PARTS: Final = {"unet.": NETWORK, "text_encoder.": "text_encoder", "text_encoder_2.": "text_encoder_2"}
# How diffusers' processors called the layers of an attention: of a text encoder, and of a U-Net.
_OLD_TEXT: Final = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_OLD_NETWORK: Final = {"to_out": "to_out.0"}

# What else adapter files hold, by what the names of its tensors have in them.
_OTHERS: Final = {
    r"\.(dora_scale|lora_magnitude_vector)\b": "DoRA, a magnitude for each row of a weight",
    r"\.hada_\w+$": "LoHa, products of two low-rank updates",
    r"\.lokr_\w+$": "LoKr, a Kronecker product",
    r"\.lora_mid\.": "LoCon with a factor in the middle (Tucker decomposition)",
    r"\.b?oft_\w+": "OFT, a rotation",
    r"\.lora_embedding_": "an update of an embedding",
    r"\bvera_lambda_": "VeRA, factors that are shared and random",
    r"\.diff(_b)?$": "whole differences of weights",
    r"\.(on_input|ia3_l)\b": "(IA)^3, a scale for each channel",
    r"\.scalar$": "a scale that is learned for each layer",
    r"\.[wb]_norm$": "differences of norms",
    r"\blora_controlnet$": "a Control-LoRA",
    r"lora.*\.bias$": "a bias that is updated too",
}


@dataclass(frozen=True)
class Name:
    """Where in a model an update belongs.

    Attributes:
        part: "unet", "text_encoder" or "text_encoder_2".
        layer: the layer's name in its network, such as "mid_block.attentions.0.to_q".
        flat: whether the name has underscores where the network has dots, as kohya's have.
    """

    part: str
    layer: str
    flat: bool


@dataclass
class Factors:
    """The names of the tensors of one layer's update, as they are found one after the other."""

    down: str = ""
    up: str = ""
    alpha: str = ""


def layers_of(names: Iterable[str], where: str) -> Mapping[Name, Factors]:
    """The updates that a file's tensors make up, by where they belong.

    Raises:
        ModelError: another kind of adapter, by its name; names that are no part of a LoRA, the first five; a factor
            without the other; nothing at all.
    """
    names = sorted(names)
    _check_kind(names, where)
    layers: dict[Name, Factors] = {}
    unknown = []
    for name in names:
        found = _FACTOR.fullmatch(name) or _ALPHA.fullmatch(name)
        if found is None:
            unknown.append(shown(name))
            continue
        said = found.groupdict()
        role = "alpha" if "word" not in said else "down" if said["letter"] == "A" or said["word"] == "down" else "up"
        factors = layers.setdefault(_placed(said["layer"], old=said["old"] == "_lora"), Factors())
        if other := getattr(factors, role):
            raise ModelError(f"{where}: tensors {shown(other)} and {shown(name)} are the same factor of one layer")
        setattr(factors, role, name)
    if unknown:
        raise ModelError(f"{where}: {len(unknown):,} tensors are no part of a LoRA: {some_of(unknown, NAMED)}")
    if not layers:
        raise ModelError(f"{where}: holds no tensors; allowed: the factors of a LoRA")
    for factors in layers.values():
        if not factors.down or not factors.up:
            there, lacks = factors.down or factors.up or factors.alpha, "up" if factors.down else "down"
            raise ModelError(f"{where}: tensor {shown(there)} has no factor {lacks!r} beside it")
    return layers


def _check_kind(names: Iterable[str], where: str) -> None:
    for name in names:
        for pattern, what in _OTHERS.items():
            if re.search(pattern, name):
                supported = "supported: LoRA, two factors for each layer"
                raise ModelError(f"{where}: tensor {shown(name)} is of {what}; {supported}")


def _placed(layer: str, old: bool) -> Name:
    """A tensor's name before its ending: its part, and the layer as the network calls it."""
    for prefix, part in _KOHYA_PARTS.items():
        if layer.startswith(prefix):
            layer = layer.removeprefix(prefix)
            inside = TEXT_MODEL.replace(".", "_") if part in TEXT_ENCODERS else ""
            return Name(part, layer.removeprefix(inside), flat=True)
    layer, part = layer.removeprefix("base_model.model."), NETWORK
    for prefix, named in _DOTTED_PARTS.items():
        if layer.startswith(prefix):
            layer, part = layer.removeprefix(prefix), named
            break
    layer = layer.removeprefix("diffusion_model." if part == NETWORK else TEXT_MODEL).replace(".processor.", ".")
    if old:
        before, dot, last = layer.rpartition(".")
        layer = before + dot + (_OLD_NETWORK if part == NETWORK else _OLD_TEXT).get(last, last)
    return Name(part, layer, flat=False)

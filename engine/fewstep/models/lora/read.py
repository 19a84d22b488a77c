"""A LoRA from a file, a folder or tensors in memory: checked, and by layer."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from fewstep.errors import ArgumentError, ModelError
from fewstep.fields import read_json, shown
from fewstep.models.lora.config import Scales, of_folder, of_metadata
from fewstep.models.lora.formats import Factors, Name, layers_of
from fewstep.models.safe_load import (
    DTYPES,
    SafetensorsFile,
    TensorDict,
    TensorSource,
    inside,
    open_weights,
)
from fewstep.models.safetensors_header import MAX_TENSORS

PEFT_CONFIG: Final = "adapter_config.json"
PEFT_WEIGHTS: Final = "adapter_model.safetensors"
IN_FOLDERS: Final = (PEFT_WEIGHTS, "pytorch_lora_weights.safetensors")
IN_MEMORY: Final = "lora"  # what tensors in memory are called


@dataclass(frozen=True)
class Update:
    """One layer's update: weight + scale * up @ down (Hu et al. 2021, LoRA, equation 3).

    Attributes:
        layer: the layer's name, as `formats.Name` has it.
        down: [r, ...], the first of the two; for a convolution its sizes after r are those of the weight.
        up: [n, r], float32 on the CPU as down is.
        scale: alpha / r, by the rule of the family's own library.
        tensor: the name of down in the file, for messages.
    """

    layer: Name
    down: Tensor
    up: Tensor
    scale: float
    tensor: str


@dataclass(frozen=True)
class Lora:
    """The updates of a LoRA file.

    Attributes:
        where: the file, or how tensors in memory are called.
        name: the file's, or its folder's where all such files are called the same.
        parts: "unet", "text_encoder" and "text_encoder_2", those that the file has.
    """

    where: str
    name: str
    parts: Mapping[str, tuple[Update, ...]]

    def only(self, *parts: str) -> "Lora":
        """Some of the parts, such as those of the text encoders: `lora.only("text_encoder", "text_encoder_2")`."""
        return Lora(self.where, self.name, {part: own for part, own in self.parts.items() if part in parts})


def read_lora(source: str | os.PathLike[str] | Mapping[str, Tensor] | Lora) -> Lora:
    """The LoRA in a .safetensors file, in a folder of PEFT's or diffusers', or in a dict of tensors.

    alpha is that of the file's own tensors, of `adapter_config.json` beside it or of diffusers' metadata in it; where
    nothing says it, it is the rank, so the scale is 1. A pickle is refused.

    Raises:
        ModelError: a file that is missing, damaged, empty, of another kind of adapter, of factors whose ranks differ,
            or holds NaN or infinity; it names the tensor.
        ArgumentError: neither a path nor tensors.
    """
    if isinstance(source, Lora):
        return source
    if isinstance(source, Mapping):
        return _of_source(_in_memory(source), IN_MEMORY, {})
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise ArgumentError("lora", source, "the path of a file or a folder, or a dict of tensors")
    path = Path(os.fspath(source))
    if path.is_dir():
        return _of_file(_in_folder(path), path.resolve().name)
    if not os.path.lexists(path):
        raise ModelError(f"{path}: cannot be read: no such file or directory")
    return _of_file(path, path.resolve().parent.name if path.name in IN_FOLDERS else path.stem)


def _in_folder(folder: Path) -> Path:
    there = [name for name in IN_FOLDERS if (folder / name).exists()]
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if not there and len(others) != 1:
        holds = f"it holds {len(others)} .safetensors files" if others else "it holds no .safetensors file"
        raise ModelError(f"{folder}: {holds}; allowed: one file, or {' or '.join(IN_FOLDERS)}")
    return inside(folder, (there or others)[0])


def _of_file(path: Path, name: str) -> Lora:
    source = open_weights(path)
    config = path.parent / PEFT_CONFIG
    # A config that leads nowhere is an error and not the lack of one: the scale would be another.
    if path.name == PEFT_WEIGHTS and os.path.lexists(config):
        scales = of_folder(read_json(inside(path.parent, PEFT_CONFIG)), str(config))
    else:
        scales = of_metadata(source.metadata, str(path)) if isinstance(source, SafetensorsFile) else {}
    return _of_source(source, name, scales)


def _in_memory(tensors: Mapping[Any, Any]) -> TensorDict:
    for name, tensor in tensors.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.dtype in DTYPES
        if not isinstance(name, str) or not plain:
            raise ArgumentError("lora", shown({name: type(tensor).__name__}), "names and dense tensors of floats")
    if len(tensors) > MAX_TENSORS:
        raise ArgumentError("lora", f"{len(tensors):,} tensors", f"at most {MAX_TENSORS:,} tensors")
    return TensorDict(Path(IN_MEMORY), tensors)


def _of_source(source: TensorSource, name: str, scales: Mapping[str, Scales]) -> Lora:
    where = str(source.path)
    parts: dict[str, list[Update]] = {}
    for layer, factors in layers_of(source.shapes, where).items():
        parts.setdefault(layer.part, []).append(_update(source, layer, factors, scales.get(layer.part)))
    return Lora(where, name, {part: tuple(updates) for part, updates in parts.items()})


def _update(source: TensorSource, layer: Name, factors: Factors, scales: Scales | None) -> Update:
    down, up = source.shapes[factors.down], source.shapes[factors.up]
    where = f"{source.path}: tensor {shown(factors.down)}"
    if len(down) < 2 or len(up) < 2 or 0 in (*down, *up) or set(up[2:]) - {1}:
        raise ModelError(f"{where} of {list(down)}, with {list(up)} after it, is no pair of factors")
    if down[0] != up[1]:
        raise ModelError(f"{where} has rank {down[0]}, and {shown(factors.up)} has rank {up[1]}; allowed: the same")
    rank = down[0]
    if factors.alpha:
        alpha = _alpha(source, factors.alpha)
        # kohya's LoRAModule takes 0 for "none was given", which is the rank; the others scale by it.
        scale = 1.0 if layer.flat and alpha == 0 else alpha / rank
    else:
        scale = 1.0 if scales is None else scales.of(layer.layer, rank, where)
    return Update(layer, _read(source, factors.down), _read(source, factors.up).flatten(1), scale, factors.down)


def _read(source: TensorSource, name: str) -> Tensor:
    # A copy, so that nothing lives in the file's memory map or follows what the caller does to a tensor.
    tensor = source.read(name).detach().to("cpu", torch.float32, copy=True)
    if not tensor.isfinite().all():
        raise ModelError(f"{source.path}: tensor {shown(name)} holds NaN or infinity")
    return tensor


def _alpha(source: TensorSource, name: str) -> float:
    if math.prod(source.shapes[name]) != 1:
        raise ModelError(
            f"{source.path}: tensor {shown(name)} has shape {list(source.shapes[name])}; allowed: a number"
        )
    return float(_read(source, name).item())

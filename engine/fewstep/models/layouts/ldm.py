"""Latent diffusion's own files of Stable Diffusion: their names of a U-Net's tensors, and diffusers' for the same.

    input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight   the fifth thing on the way down, the second in it
    down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight

A U-Net is counted through there (Rombach et al. 2022, 2112.10752: the code of guided-diffusion, with transformers):
input_blocks.0 is the input convolution, then come the residual blocks of each level and its halving. What is within a
transformer's block has one name in both.
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

from fewstep.errors import ModelError
from fewstep.models.net.config import MAX_LAYERS, MAX_LEVELS

# A tensor that only the U-Net of such a file has: a ControlNet beside it has no way up.
TELLING: Final = "output_blocks.0.0.in_layers.0.weight"

_RESIDUAL: Final = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_OUTER: Final = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "label_emb": "class_embedding",
}
ADDED: Final = "add_embedding"  # what label_emb is where it is two layers of a vector: pooled text and sizes, or else
VECTOR: Final = "class_embedding"
_BLOCK: Final = re.compile(r"(input_blocks|output_blocks)\.(\d{1,4})\.(\d)\.", re.ASCII)


class Names:
    """Which name a tensor of such a U-Net has in diffusers, and the other way round; one without stays as it is."""

    def __init__(self, names: Collection[str], where: str, vector: str) -> None:
        """Look at how the U-Net is counted through.

        Args:
            names: of all its tensors.
            where: what messages start with.
            vector: which of diffusers' two places label_emb has where it takes a vector: ADDED (SDXL) or VECTOR
                (unCLIP).

        Raises:
            ModelError: more levels or blocks than a U-Net may have.
        """
        self._modules = _modules(names, where, vector)
        self._places: dict[str, str] = {}
        for here, there in self._modules.items():
            if there not in self._places or f"{here}.weight" in names:
                self._places[there] = here

    def in_diffusers(self, name: str) -> str:
        """The name there of a tensor of the file."""
        return _moved(name, self._modules)

    def in_file(self, name: str) -> str:
        """The name in the file of a tensor of diffusers'."""
        return _moved(name, self._places)


def _moved(name: str, modules: Mapping[str, str]) -> str:
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if (there := modules.get(".".join(parts[:end]))) is not None:
            return ".".join([there, *parts[end:]])
    return name


def _modules(names: Collection[str], where: str, vector: str) -> Mapping[str, str]:
    """A module there -> the module in diffusers."""
    blocks: dict[tuple[str, int], set[int]] = {}
    for name in names:
        if match := _BLOCK.match(name):
            blocks.setdefault((match[1], int(match[2])), set()).add(int(match[3]))
    halvings = sorted(index for way, index in blocks if way == "input_blocks" and f"{way}.{index}.0.op.weight" in names)
    last = max((index for way, index in blocks if way == "input_blocks"), default=0)
    layers, levels = (halvings[0] - 1 if halvings else last), len(halvings) + 1
    if not 1 <= layers <= MAX_LAYERS or levels > MAX_LEVELS:
        said = f"{levels} levels of {layers} residual blocks on the way down"
        raise ModelError(f"{where}: has {said}; allowed: 1 to {MAX_LEVELS} of 1 to {MAX_LAYERS}")
    return modules_of(levels, layers, vector)


def modules_of(levels: int, layers: int, vector: str) -> Mapping[str, str]:
    """A module there -> the module in diffusers, for so many residual blocks a level on the way down.

    `vector` is as for `Names`. A doubling has two names there, of which a U-Net has the one: behind a transformer
    another than behind a residual block alone.
    """
    modules = dict(_OUTER)
    for layer in (0, 2):
        modules[f"label_emb.0.{layer}"] = f"{vector}.linear_{1 + layer // 2}"
    for level in range(levels):
        first = 1 + level * (layers + 1)
        for stage in range(layers):
            theirs = f"input_blocks.{first + stage}"
            modules |= _residual(f"{theirs}.0", f"down_blocks.{level}.resnets.{stage}")
            modules[f"{theirs}.1"] = f"down_blocks.{level}.attentions.{stage}"
        modules[f"input_blocks.{first + layers}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
        for stage in range(layers + 1):
            index = level * (layers + 1) + stage
            theirs = f"output_blocks.{index}"
            modules |= _residual(f"{theirs}.0", f"up_blocks.{level}.resnets.{stage}")
            modules[f"{theirs}.1"] = f"up_blocks.{level}.attentions.{stage}"
            for place in (1, 2):  # behind the transformer, where there is one
                modules[f"{theirs}.{place}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    modules |= _residual("middle_block.0", "mid_block.resnets.0") | {"middle_block.1": "mid_block.attentions.0"}
    return modules | _residual("middle_block.2", "mid_block.resnets.1")


def _residual(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{layer}": f"{ours}.{there}" for layer, there in _RESIDUAL.items()}

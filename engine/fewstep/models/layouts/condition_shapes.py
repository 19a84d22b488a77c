"""What the tensors of a UNet2DConditionModel tell of its config.json, where that is not there."""

import re
from collections.abc import Mapping
from typing import Any, Final

from fewstep.errors import ModelError
from fewstep.fields import shown
from fewstep.models.layouts.diffusers_condition import CLASS, DOWN_BLOCKS, UP_BLOCKS
from fewstep.models.net.condition_config import MAX_DEPTH
from fewstep.models.net.config import MAX_LAYERS, MAX_LEVELS

Shapes = Mapping[str, tuple[int, ...]]

CROSS: Final = "attn2.to_k.weight"
_STAGE: Final = re.compile(
    r"(down|up)_blocks\.(\d{1,3})\.(resnets|attentions)\.(\d{1,3})\.(?:transformer_blocks\.(\d{1,3})\.)?", re.ASCII
)
_MIDDLE: Final = re.compile(r"mid_block\.attentions\.0\.transformer_blocks\.(\d{1,3})\.", re.ASCII)


def context_width(shapes: Shapes) -> int | None:
    """Of the embedding that cross-attention looks at, whatever comes before the names; None where there is none."""
    return next((shape[1] for name, shape in shapes.items() if name.endswith(CROSS) and len(shape) == 2), None)


def config_from_shapes(shapes: Shapes, where: str) -> dict[str, Any]:
    """A config.json as diffusers writes it, but for what no shape tells: heads, sample_size, embedded sizes.

    Args:
        shapes: of all tensors, by diffusers' names. What they lack or have too much is not looked for here: the U-Net
            of the config says it.
        where: what messages start with.

    Raises:
        ModelError: a U-Net of another form.
    """
    depths, middle, levels, layers = _stages(shapes, where)
    widths = [_size(shapes, f"down_blocks.{level}.resnets.0.conv1.weight", 0, where) for level in range(levels)]
    down = [_entry([depths.get(("down", level, stage), 0) for stage in range(layers)]) for level in range(levels)]
    up = [_entry([depths.get(("up", level, stage), 0) for stage in range(layers + 1)]) for level in range(levels)]
    config: dict[str, Any] = {
        "_class_name": CLASS,
        "in_channels": _size(shapes, "conv_in.weight", 1, where),
        "out_channels": _size(shapes, "conv_out.weight", 0, where),
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": [DOWN_BLOCKS[0] if entry else DOWN_BLOCKS[1] for entry in down],
        "up_block_types": [UP_BLOCKS[1] if entry else UP_BLOCKS[0] for entry in up],
        "cross_attention_dim": context_width(shapes),
        **_depths(shapes, down, up, middle, where),
        **_embeddings(shapes, widths[0], where),
    }
    return config


def _stages(shapes: Shapes, where: str) -> tuple[dict[tuple[str, int, int], int], int, int, int]:
    """Depths of the transformers by way, level and residual block; of the one in the middle; levels; blocks a level."""
    depths: dict[tuple[str, int, int], int] = {}
    middle, levels, layers = 0, 0, 0
    for name in shapes:
        if match := _STAGE.match(name):
            way, level, kind, stage, block = match.groups()
            if kind == "resnets" and way == "down":
                levels = max(levels, int(level) + 1)
                layers = max(layers, int(stage) + 1) if level == "0" else layers
            elif block is not None:
                place = (way, int(level), int(stage))
                depths[place] = max(depths.get(place, 0), int(block) + 1)
        elif match := _MIDDLE.match(name):
            middle = max(middle, int(match[1]) + 1)
    deepest = max([middle, *depths.values()])
    if not 1 <= levels <= MAX_LEVELS or not 1 <= layers <= MAX_LAYERS or deepest > MAX_DEPTH:
        said = f"{levels} levels of {layers} residual blocks, and up to {deepest} in a transformer"
        raise ModelError(f"{where}: has {said}; allowed: up to {MAX_LEVELS} of {MAX_LAYERS}, and {MAX_DEPTH}")
    return depths, middle, levels, layers


def _entry(depths: list[int]) -> int | list[int]:
    """As transformer_layers_per_block has a level: one depth, a list of unlike ones, or 0 where nothing attends.

    A transformer that is missing beside others counts as one of 1, so that its tensors are missed.
    """
    depths = [depth or 1 for depth in depths] if any(depths) else [0]
    return depths[0] if len(set(depths)) == 1 else depths


def _depths(
    shapes: Shapes, down: list[int | list[int]], up: list[int | list[int]], middle: int, where: str
) -> dict[str, Any]:
    there = any(name.startswith("mid_block.resnets.") for name in shapes)
    last = down[-1][0] if isinstance(down[-1], list) else down[-1]
    if there and (not middle or (last and last != middle)):
        has = f"{middle} transformer blocks in the middle, and {last} at the coarsest level"
        raise ModelError(f"{where}: has {has}; supported: as many, from 1")
    said = [entry or 1 for entry in down]
    if there:
        said[-1] = down[-1] or middle
    even = all(isinstance(entry, int) for entry in [*down, *up])
    reverse = {} if even and up[::-1] == down else {"reverse_transformer_layers_per_block": [each or 1 for each in up]}
    return {"transformer_layers_per_block": said, **reverse} | ({} if there else {"mid_block_type": None})


def _embeddings(shapes: Shapes, stem: int, where: str) -> dict[str, Any]:
    """What joins the embedding of t, and the context's own projection."""
    config: dict[str, Any] = {}
    width = _size(shapes, "time_embedding.linear_1.weight", 0, where)
    if width != 4 * stem:
        config["time_embedding_dim"] = width
    if "time_embedding.cond_proj.weight" in shapes:
        config["time_cond_proj_dim"] = _size(shapes, "time_embedding.cond_proj.weight", 1, where)
    if "class_embedding.weight" in shapes:
        config["num_class_embeds"] = _size(shapes, "class_embedding.weight", 0, where)
    for name, said in {
        "class_embedding.linear_1.weight": {"class_embed_type": "projection"},
        "add_embedding.linear_1.weight": {"addition_embed_type": "text_time"},
    }.items():
        if name in shapes:
            config |= said | {"projection_class_embeddings_input_dim": _size(shapes, name, 1, where)}
    if "encoder_hid_proj.weight" in shapes:
        given = _size(shapes, "encoder_hid_proj.weight", 1, where)
        config |= {"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": given}
    return config


def _size(shapes: Shapes, name: str, axis: int, where: str) -> int:
    shape = shapes.get(name)
    if shape is None or len(shape) not in (2, 4):
        has = "is missing" if shape is None else f"has shape {list(shape)}; allowed: two or four dimensions"
        raise ModelError(f"{where}: tensor {shown(name)} {has}")
    return shape[axis]

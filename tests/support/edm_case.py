"""Networks of EDM and FastGen with random weights, as folders, and what their own code makes of an image.

edm.safetensors holds what that code answers where all its numbers are float64, by case: the image x with its noise,
sigma (or a time t), labels and r, and `image`, what the preconditioned network makes of it. Its metadata are a case's
arguments, and the names and shapes of its tensors, whose values `weight` draws.
"""

import functools
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

GOLDENS = Path(__file__).with_name("edm.safetensors")
with safe_open(GOLDENS, "pt") as file:
    CASES: dict[str, Any] = {name: json.loads(text) for name, text in sorted(file.metadata().items())}


def golden(case: str) -> dict[str, Tensor]:
    with safe_open(GOLDENS, "pt") as file:
        names = [name for name in file.keys() if name.startswith(f"{case}.")]  # noqa: SIM118, the file is no dict
        return {name.removeprefix(f"{case}."): file.get_tensor(name) for name in names}


def weight(name: str, shape: list[int], config: dict[str, Any]) -> Tensor:
    """Normal with variance 1 / fan-in, norms near 1, biases small; a filter is what the config says."""
    if name.endswith("resample_filter"):
        taps = torch.tensor(config.get("resample_filter", [1, 1]), dtype=torch.float32)
        return (torch.outer(taps, taps) / taps.sum() ** 2).reshape(shape)
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("freqs"):
        draw = 16 * draw
    elif len(shape) == 1:
        draw = 0.2 * draw + name.endswith("weight")
    else:
        draw = draw / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(draw.astype(np.float32))


def configured(folder: Path, case: str, **changes: Any) -> Path:
    """A folder with the arguments of a case, and no weights yet."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CASES[case]["config"] | changes))
    return folder


def written(folder: Path, case: str, prefix: str = "", **changes: Any) -> Path:
    """A folder with the network of a case."""
    configured(folder, case, **changes)
    save_file({prefix + name: tensor for name, tensor in weights(case).items()}, folder / "model.safetensors")
    return folder


@functools.cache
def weights(case: str) -> dict[str, Tensor]:
    config, shapes = CASES[case]["config"], CASES[case]["shapes"]
    return {name: weight(name, shape, config) for name, shape in shapes.items()}

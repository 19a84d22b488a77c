"""Models in folders and in the box, with the weights that they have."""

from importlib import import_module
from pathlib import Path
from typing import Any

from fewstep.bench.subjects.subject import TRAINED, Subject
from fewstep.bench.subjects.weights import optional_diffusers
from fewstep.engine import Engine
from fewstep.errors import ArgumentError
from fewstep.fields import read_json
from fewstep.models.layouts.edm_folder import is_edm
from fewstep.models.net.conditional import ConditionalUNet
from fewstep.request.conditions import Unconditional


def model_subject(folder: str, device: str = "cpu", max_batch: int = 16, steps: int | None = None) -> Subject:
    """The model in a folder; diffusers' own implementation joins where the folder is in diffusers' format.

    Raises:
        ModelError: as `Engine.from_pretrained`.
        ArgumentError: a U-Net that is told a text, as Stable Diffusion's.
    """
    engine = Engine.from_pretrained(folder, steps, device=device, max_batch=max_batch, backend="torch")
    if isinstance(engine.module, ConditionalUNet):
        allowed = "one that is told no text: make gpu PARTS='sd15 sdxl' measures U-Nets of Stable Diffusion"
        raise ArgumentError("model", folder, allowed)
    inner = Path(folder) / "unet" if (Path(folder) / "unet").is_dir() else Path(folder)
    theirs, why = None, "not in diffusers' format"
    if (inner / "config.json").exists() and not is_edm(read_json(inner / "config.json", constants=True)):
        theirs, why = optional_diffusers(lambda: _loaded_unet_2d(inner))
    if not isinstance(engine.model.conditions, Unconditional):
        theirs, why = None, "its pipelines take no labels"
    source = {"name": str(folder)} | ({} if steps is None else {"steps": steps})
    placed = None if theirs is None else theirs.to(engine.device)
    return Subject(engine, engine.model.name or folder, source, TRAINED, placed, why)


def _loaded_unet_2d(folder: Path) -> Any:
    diffusers: Any = import_module("diffusers")
    return diffusers.UNet2DModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()

"""Model folders: ours, and diffusers' unconditional pipelines and UNet2DModels."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save

from fewstep.errors import ArgumentError, ModelError, OutputError
from fewstep.fields import Fields, read_json
from fewstep.files import AtomicFiles
from fewstep.models.bundled import SPEC_FILE, model_folder
from fewstep.models.layouts import adm, diffusers
from fewstep.models.layouts.diffusers_scheduler import Sampling, sampling_from_scheduler
from fewstep.models.layouts.keys import Keys, own_keys
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet, empty_unet
from fewstep.models.safe_load import DTYPES, Renamed, fill, inside, open_weights
from fewstep.models.spec import FORMAT, ModelSpec
from fewstep.staging import cut_off, mend

WEIGHTS_FILE: Final = "model.safetensors"
PIPELINES: Final = ("DDPMPipeline", "DDIMPipeline", "ConsistencyModelPipeline")

# Rounding the frequencies of random Fourier features to 16 bits would turn their phases by radians.
KEEP_FLOAT32: Final = frozenset({"time.features.frequencies"})


@dataclass(frozen=True)
class Weights:
    """A weight file that has not been read, and what its tensors are."""

    config: UNetConfig
    path: Path
    keys: Callable[[UNet], Keys]
    rename: Callable[[str], str] | None = None  # a tensor's name in the file -> its name in `keys`


def load_model(
    folder: str | PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_pickle: bool = False,
) -> tuple[UNet, ModelSpec]:
    """The U-Net of a model folder, in evaluation mode, and its spec.

    Args:
        folder: ours (fewstep.json and model.safetensors), a diffusers unconditional pipeline (model_index.json),
            or a UNet2DModel (config.json), for which a linear schedule is assumed and noted in the spec; or the name of
            a model in the box, see `bundled.model_folder`.
        device: where the weights go.
        dtype: of the weights.
        allow_pickle: also read weights stored as pickles, through torch's reader of plain tensors.

    Raises:
        ModelError: a file that is missing, damaged, hostile or not supported, in one line naming the file and
            the reason; nothing is allocated for what the checks refuse.
        ArgumentError: a dtype that weights cannot have.
    """
    weights, spec = open_folder(folder)
    return _built(weights, dtype, allow_pickle).to(device), spec


def open_folder(folder: str | PathLike[str]) -> tuple[Weights, ModelSpec]:
    """What `load_model` would load, before the weights are read. ModelError as there."""
    path = model_folder(Path(folder))
    if left := cut_off(path):
        said = f"{path}: its writer was killed before {' and '.join(left)} came into place beside the rest"
        raise ModelError(f"{said}; save the model again")
    for name, read in ((SPEC_FILE, _own), ("model_index.json", _pipeline), ("config.json", _bare)):
        if (path / name).exists():
            return read(path)
    raise ModelError(f"{path}: holds no model; expected {SPEC_FILE}, model_index.json or config.json")


def load_adm(
    path: str | PathLike[str],
    config: UNetConfig,  # such as `adm.config_from_adm` makes from the model's flags
    *,
    new_attention_order: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_pickle: bool = False,
) -> UNet:
    """The U-Net of a guided-diffusion checkpoint, .safetensors or .pt. Raises as `load_model`."""
    naming = adm.naming(config, new_attention_order=new_attention_order)
    return _built(Weights(config, Path(path), naming.keys), dtype, allow_pickle).to(device)


def save_model(folder: str | PathLike[str], unet: UNet, spec: ModelSpec, overwrite: bool = False) -> None:
    """Write a model folder that `load_model` reads: both files, or none.

    Raises:
        OutputError: a folder that holds something already (unless `overwrite`), that is read-only, or on a full
            disk.
        ArgumentError: a spec that is not this U-Net's.
    """
    path = Path(folder)
    if spec.unet != unet.config:
        raise ArgumentError("spec", spec.name, "a spec whose unet is the U-Net's config")
    mend(path)
    if path.exists() and not overwrite and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(f"{path}: exists already; allowed: a new or empty folder, or overwrite")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in unet.state_dict().items()}
    with AtomicFiles() as files:
        files.open(path / WEIGHTS_FILE).write(save(state))
        files.open(path / SPEC_FILE).write(json.dumps(spec.to_dict(), indent=2).encode() + b"\n")


def _built(weights: Weights, dtype: torch.dtype, allow_pickle: bool) -> UNet:
    if dtype not in DTYPES:
        raise ArgumentError("dtype", dtype, ", ".join(map(str, DTYPES)))
    unet = empty_unet(weights.config, str(weights.path))
    source = open_weights(weights.path, allow_pickle)
    if weights.rename is not None:
        source = Renamed(source, weights.rename)
    fill(unet, source, weights.keys(unet), dtype, KEEP_FLOAT32)
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return unet.eval()


def _own(folder: Path) -> tuple[Weights, ModelSpec]:
    path = inside(folder, SPEC_FILE)
    spec = ModelSpec.from_dict(read_json(path), str(path))
    return Weights(spec.unet, inside(folder, WEIGHTS_FILE), own_keys), spec


def _pipeline(folder: Path) -> tuple[Weights, ModelSpec]:
    index = inside(folder, "model_index.json")
    read = Fields(read_json(index), str(index))
    read.choice("_class_name", PIPELINES)
    if read.texts("unet") != ("diffusers", "UNet2DModel"):
        raise read.error("unet", f"got {read.data['unet']}; supported: diffusers' UNet2DModel")
    scheduler = inside(folder, "scheduler/scheduler_config.json")
    sampling = sampling_from_scheduler(read_json(scheduler), str(scheduler))
    return _unet_2d_model(folder, "unet/", sampling)


def _bare(folder: Path) -> tuple[Weights, ModelSpec]:
    note = "no scheduler came with the U-Net: a linear schedule of 1000 steps and eps prediction are assumed"
    return _unet_2d_model(folder, "", Sampling(notes=(note,)))


def _unet_2d_model(folder: Path, prefix: str, sampling: Sampling) -> tuple[Weights, ModelSpec]:
    path = inside(folder, f"{prefix}config.json")
    data = read_json(path)
    config = diffusers.config_from_diffusers(data, str(path))
    classes = config.num_classes
    spec = {
        "format": FORMAT,
        "name": folder.resolve().name,
        "family": "ddpm",
        "unet": config.to_dict(),
        "shape": [config.in_channels, *diffusers.sample_size(data, str(path))],
        "schedule": sampling.schedule,
        "prediction": sampling.prediction,
        "plan": sampling.plan,
        "labels": None if classes is None else {"kind": "classes", "count": classes, "null": None},
        "notes": sampling.notes,
    }
    weights = inside(folder, f"{prefix}diffusion_pytorch_model.safetensors")
    pickled = inside(folder, f"{prefix}diffusion_pytorch_model.bin")
    if not weights.exists() and pickled.exists():
        weights = pickled
    naming = diffusers.naming(config)
    return Weights(config, weights, naming.keys, diffusers.modern_name), ModelSpec.from_dict(spec, str(folder))

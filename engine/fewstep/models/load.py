"""Models on a disk: folders of ours, of diffusers, of EDM and FastGen, and single files of Stable Diffusion."""

import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from fewstep.errors import ArgumentError, ModelError, OutputError, some_of
from fewstep.fields import read_json
from fewstep.files import AtomicFiles, check_name
from fewstep.models.bundled import SPEC_FILE, model_folder
from fewstep.models.given import arguments_of, merged
from fewstep.models.layouts import adm
from fewstep.models.layouts.diffusers_folder import open_pipeline, open_unet
from fewstep.models.layouts.edm_folder import is_edm, open_edm
from fewstep.models.layouts.keys import own_keys
from fewstep.models.layouts.single_file import open_file
from fewstep.models.net.build import empty_unet
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet
from fewstep.models.prefixes import unwrapped
from fewstep.models.safe_load import DTYPES, Renamed, Without, fill, inside
from fewstep.models.saving import checked_spec, checked_weights, own_unet
from fewstep.models.spec import NOTHING, ModelSpec
from fewstep.models.weights import Weights
from fewstep.staging import cut_off, is_own, mend

SHOWN: Final = 5  # folders or files in a hint
WEIGHTS_FILE: Final = "model.safetensors"

# Rounding the frequencies of random Fourier features to 16 bits would turn their phases by radians.
KEEP_FLOAT32: Final = frozenset(
    {"time.features.frequencies", "time.features_r.frequencies", "second.features.frequencies"}
)


def load_model(
    folder: str | PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_pickle: bool = False,
    variant: str | None = None,
    given: Mapping[str, Any] = NOTHING,
) -> tuple[UNet, ModelSpec]:
    """The U-Net of a model folder, in evaluation mode, and its spec.

    Args:
        folder: ours (fewstep.json and model.safetensors), a pipeline of diffusers (model_index.json), a UNet2DModel or
            a UNet2DConditionModel (config.json), for which a schedule is assumed and noted in the spec, or a network of
            EDM or FastGen (config.json, model.safetensors); a file of Stable Diffusion, see `single_file.open_file`; or
            the name of a model in the box or in the Hugging Face cache, see `bundled.model_folder`.
        device: where the weights go.
        dtype: of the weights.
        allow_pickle: also read weights stored as pickles, through torch's reader of plain tensors.
        variant: which weights of a diffusers folder, such as "fp16", see `weights.find_weights`; of a file with
            averaged weights beside the others "ema" for those.
        given: fields of the spec to have in place of what the folder says, as `given.spec_fields` makes them.

    Raises:
        ModelError: a file that is missing, damaged, hostile or not supported, in one line naming the file and
            the reason; nothing is allocated for what the checks refuse.
        ArgumentError: a dtype that weights cannot have, or a variant that is no text.
    """
    weights, spec = open_folder(folder, variant, given, allow_pickle)
    return _built(weights, dtype, allow_pickle).to(device), spec


def open_folder(
    folder: str | PathLike[str],
    variant: str | None = None,
    given: Mapping[str, Any] = NOTHING,
    allow_pickle: bool = False,
) -> tuple[Weights, ModelSpec]:
    """What `load_model` would load, before the weights are read, but for a pickle's. ModelError as there."""
    if variant is not None and not isinstance(variant, str):
        raise ArgumentError("variant", variant, "a text such as 'fp16', or None")
    path = model_folder(folder if isinstance(folder, str) else Path(folder))
    if path.is_file():
        return open_file(path, given, variant, allow_pickle)
    left = {name: place for name, place in cut_off(path).items() if name in (SPEC_FILE, WEIGHTS_FILE)}
    if left:
        said = f"{path}: its writer was killed before {' and '.join(left)} came into place beside the rest"
        others = {place.name: None for place in left.values() if not is_own(place)}
        rest = f", and remove {', '.join(others)} there, which another user left" if others else ""
        raise ModelError(f"{said}; save the model again{rest}")
    for name, read in ((SPEC_FILE, _own), ("model_index.json", open_pipeline), ("config.json", _open_config)):
        if (path / name).exists():
            return read(path, given, variant)
    below = sorted(each.parent.name for each in path.glob(f"*/{SPEC_FILE}"))
    hint = f"; there is one in {', '.join(below[:SHOWN])} below it" if below else ""
    if files := sorted(each.name for each in path.glob("*.safetensors")):
        hint = f"; a file in it may be one by itself: {some_of(files, SHOWN)}"
    raise ModelError(f"{path}: holds no model; expected {SPEC_FILE}, model_index.json or config.json{hint}")


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


def save_model(folder: str | PathLike[str], unet: nn.Module, spec: ModelSpec, overwrite: bool = False) -> None:
    """Write a model folder that `load_model` reads: both files, or none.

    Args:
        folder: where; made if it is not there.
        unet: a `UNet`, or one that torch.compile, DataParallel or their like have wrapped.
        spec: what is known of it.
        overwrite: whether a folder that holds something may be written into.

    Raises:
        OutputError: a folder that holds something already (unless `overwrite`), that is read-only, or on a full
            disk.
        ArgumentError: a spec that is not this U-Net's, or either of them such that `load_model` would not give it back.
    """
    check_name(folder)
    path = Path(folder)
    plain = own_unet(unet)
    if not isinstance(spec, ModelSpec):
        raise ArgumentError("spec", spec, "a fewstep.models.ModelSpec, which ModelSpec.from_dict makes of a dict")
    if spec.unet != plain.config:
        raise ArgumentError("spec", spec.name, "a spec whose unet is the U-Net's config")
    weights, text = checked_weights(plain), checked_spec(spec)
    mend(path)
    if os.path.exists(path) and not overwrite and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(f"{path}: exists already; allowed: a new or empty folder, or overwrite")
    for name in (WEIGHTS_FILE, SPEC_FILE):
        if os.path.islink(path / name):
            raise OutputError(f"{path / name}: is a link, which is not written through; allowed: a folder's own files")
    with AtomicFiles() as files:
        files.open(path / WEIGHTS_FILE).write(weights)
        files.open(path / SPEC_FILE).write(text)


def _built(weights: Weights, dtype: torch.dtype, allow_pickle: bool) -> UNet:
    if dtype not in DTYPES:
        raise ArgumentError("dtype", dtype, ", ".join(map(str, DTYPES)))
    unet = empty_unet(weights.config, str(weights.path))
    source, keys = weights.open(allow_pickle), weights.keys(unet)
    if weights.rename is not None:
        source = Renamed(source, weights.rename)
    if weights.unused is not None:
        source = Without(source, weights.unused)
    source = unwrapped(source, [piece.name for pieces in keys.values() for piece in pieces])
    fill(unet, source, keys, dtype, KEEP_FLOAT32, weights.joins)
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return unet.eval()


def _open_config(folder: Path, given: Mapping[str, Any], variant: str | None) -> tuple[Weights, ModelSpec]:
    """A network by itself: EDM's or FastGen's by what its config.json says, or else a UNet2DModel."""
    path = inside(folder, "config.json")
    data = read_json(path, constants=True)
    if is_edm(data):
        return open_edm(folder, data, str(path), given, variant)
    return open_unet(folder, given, variant)


def _own(folder: Path, given: Mapping[str, Any], variant: str | None) -> tuple[Weights, ModelSpec]:
    path = inside(folder, SPEC_FILE)
    if variant is not None:
        raise ModelError(f"{path}: its weights have no variants; got variant {variant!r}")
    spec = ModelSpec.from_dict(merged(read_json(path), given), str(path), arguments_of(given))
    return Weights(spec.unet, inside(folder, WEIGHTS_FILE), own_keys), spec

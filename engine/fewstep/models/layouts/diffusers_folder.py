"""What diffusers saves: a pipeline (model_index.json), or a U-Net by itself (config.json)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fewstep.errors import ModelError, some_of
from fewstep.fields import Fields, read_json, shown
from fewstep.models.given import arguments_of, merged
from fewstep.models.hub import name_of
from fewstep.models.layouts import diffusers, diffusers_condition
from fewstep.models.layouts.diffusers_pipelines import CONDITIONED, PIPELINES, UNET, Pipeline
from fewstep.models.layouts.diffusers_scheduler import OVERRIDE, SAMPLING, Sampling, assumed, sampling_from_scheduler
from fewstep.models.layouts.keys import Naming
from fewstep.models.net.config import UNetConfig
from fewstep.models.recognise import recognised
from fewstep.models.safe_load import inside
from fewstep.models.spec import FORMAT, NOTHING, ModelSpec
from fewstep.models.weights import Weights, find_weights

SHOWN: Final = 6  # pipelines that a message lists
STEM: Final = "diffusion_pytorch_model"
# Latent consistency models are told the scale; trained for 3 to 13 (Luo et al. 2023, 2310.04378), they take any.
GUIDANCE: Final = {"min": 0.0, "max": 100.0, "default": 8.5}


@dataclass(frozen=True)
class Kind:
    """A class of diffusers' U-Nets: how its config.json is read, and what its tensors are called."""

    family: str
    config: Callable[[Any, str], UNetConfig]
    shape: Callable[[Any, UNetConfig, str], tuple[tuple[int, int, int], tuple[str, ...]]]
    naming: Callable[[UNetConfig], Naming]
    rename: Callable[[str], str] | None = None


def _image_shape(data: Any, config: UNetConfig, where: str) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    return diffusers.image_shape(data, config, where), ()


KINDS: Final = {
    UNET: Kind("ddpm", diffusers.config_from_diffusers, _image_shape, diffusers.naming, diffusers.modern_name),
    CONDITIONED: Kind(
        "sd",
        diffusers_condition.config_from_diffusers_condition,
        diffusers_condition.latent_shape,
        diffusers_condition.naming,
    ),
}


def open_pipeline(folder: Path, given: Mapping[str, Any], variant: str | None) -> tuple[Weights, ModelSpec]:
    """The U-Net of a pipeline before its weights are read, and a spec with what the scheduler says.

    Args:
        folder: the pipeline's.
        given: fields of a spec to have in place of what the folder says, which is then not looked at.
        variant: of the weights.

    Raises:
        ModelError: a pipeline, U-Net or scheduler that fewstep does not have, by name.
    """
    index = inside(folder, "model_index.json")
    read = Fields(read_json(index), str(index))
    name = read.text("_class_name", max_length=100)
    pipeline = PIPELINES.get(name, Pipeline())
    if name not in PIPELINES and ("plan" not in given or not read.has("unet")):
        why = "" if read.has("unet") else ", which has no U-Net"
        advice = "" if why else f"; or say what to sample with: {OVERRIDE}"
        known = some_of(list(PIPELINES), SHOWN)
        raise read.error("_class_name", f"got {shown(name)}{why}; supported: {known}{advice}")
    library, kind = (*read.texts("unet"), "", "")[:2]
    supported = {pipeline.unet} if name in PIPELINES else set(KINDS)
    if library != "diffusers" or kind not in supported:
        allowed = f"diffusers' {' or '.join(sorted(supported))}"
        raise read.error("unet", f"got {shown(read.data['unet'])}; supported: {allowed}")
    unet = _place(folder, "unet")
    if set(SAMPLING) <= set(given):
        sampling = Sampling(**{name: given[name] for name in SAMPLING})
        return _opened(folder, unet, kind, sampling, given, variant)
    scheduler = inside(folder, _place(folder, "scheduler") + "scheduler_config.json")
    said = {**read_json(scheduler, constants=True), **pipeline.set_right}
    sampling = sampling_from_scheduler(said, str(scheduler), given)
    about = {"scheduler": str(said.get("_class_name", "")), "model_index.json": str(read.data.get("_name_or_path", ""))}
    return _opened(folder, unet, kind, sampling, given, variant, about, pipeline.guidance_scale)


def open_unet(folder: Path, given: Mapping[str, Any], variant: str | None) -> tuple[Weights, ModelSpec]:
    """As `open_pipeline`, for a U-Net without a scheduler: what is not given of that is assumed, and noted."""
    path = inside(folder, "config.json")
    data = read_json(path, constants=True)
    classes = data.get("architectures")  # of transformers, whose configs say a class so
    kind = data.get("_class_name", classes[0] if isinstance(classes, list) and classes else UNET)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ModelError(f"{path}: _class_name: got {shown(kind)}; supported: {', '.join(KINDS)}")
    return _opened(folder, "", kind, assumed(given, of_latents=kind == CONDITIONED), given, variant)


def _place(folder: Path, part: str) -> str:
    """Where a part of a pipeline lies: in a folder of its name, or, as in the first pipelines of all, at the top."""
    return f"{part}/" if (folder / part).is_dir() else ""


def _opened(
    folder: Path,
    place: str,
    class_name: str,
    sampling: Sampling,
    given: Mapping[str, Any],
    variant: str | None,
    about: Mapping[str, str] = NOTHING,
    guidance_scale: float | None = None,
) -> tuple[Weights, ModelSpec]:
    path, kind = inside(folder, f"{place}config.json"), KINDS[class_name]
    data = read_json(path, constants=True)
    config = kind.config(data, str(path))
    found = find_weights(folder, place, STEM, variant)
    notes = [*sampling.notes]
    if found.variant is not None and variant is None:
        notes.append(f"the weights are variant {found.variant!r}, the only one in the folder")
    spec = {"name": name_of(folder), "family": kind.family, **of_unet(config), **vars(sampling)}
    if "shape" not in given:
        shape, assumptions = kind.shape(data, config, str(path))
        spec["shape"] = list(shape)
        notes += assumptions
    spec["notes"] = notes
    if about and not {"plan", "trained"} & set(given):
        names = {"the folder's name": spec["name"], "the name in model_index.json": about["model_index.json"]}
        names["the name in the U-Net's config.json"] = str(data.get("_name_or_path", ""))
        found_preset = recognised(names, about["scheduler"], data)
        spec = spec if found_preset is None else found_preset.applied(spec)
        spec = guided(spec, guidance_scale)
    weights = Weights(config, found.path, kind.naming(config).keys, kind.rename)
    return weights, ModelSpec.from_dict(merged(spec, given), str(folder), arguments_of(given))


def of_unet(config: UNetConfig) -> dict[str, Any]:
    """The fields of a spec that a U-Net's config says."""
    classes, condition = config.num_classes, config.condition
    told = condition is not None and condition.guidance_channels is not None
    return {
        "format": FORMAT,
        "unet": config.to_dict(),
        "labels": None if classes is None else {"kind": "classes", "count": classes, "null": None},
        "guidance": GUIDANCE if told else None,
    }


def guided(spec: Mapping[str, Any], scale: float | None) -> dict[str, Any]:
    """The fields of a spec with the guidance scale that a pipeline has unless told, where nothing else says one."""
    said = "guidance_scale" in spec["plan"] or spec.get("guidance") is not None or spec.get("trained") is not None
    if said or scale is None:
        return dict(spec)
    return {**spec, "plan": {**spec["plan"], "guidance_scale": scale}}

"""What diffusers saves: an unconditional pipeline (model_index.json), or a UNet2DModel by itself (config.json)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fewstep.fields import Fields, read_json, shown
from fewstep.models.given import arguments_of, merged
from fewstep.models.hub import name_of
from fewstep.models.layouts import diffusers
from fewstep.models.layouts.diffusers_scheduler import OVERRIDE, SAMPLING, Sampling, assumed, sampling_from_scheduler
from fewstep.models.recognise import recognised
from fewstep.models.safe_load import inside
from fewstep.models.spec import FORMAT, NOTHING, ModelSpec
from fewstep.models.weights import Weights, find_weights

PIPELINES: Final = ("DDPMPipeline", "DDIMPipeline", "ConsistencyModelPipeline")
STEM: Final = "diffusion_pytorch_model"


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
    kind = read.text("_class_name", max_length=100)
    if kind not in PIPELINES and "plan" not in given:
        advice = f"say what to sample with: {OVERRIDE}"
        raise read.error("_class_name", f"got {shown(kind)}; supported: {', '.join(PIPELINES)}; or {advice}")
    if read.texts("unet") != ("diffusers", "UNet2DModel"):
        raise read.error("unet", f"got {shown(read.data['unet'])}; supported: diffusers' UNet2DModel")
    unet = _place(folder, "unet")
    if set(SAMPLING) <= set(given):
        return _unet_2d_model(folder, unet, Sampling(**{name: given[name] for name in SAMPLING}), given, variant)
    scheduler = inside(folder, _place(folder, "scheduler") + "scheduler_config.json")
    said = read_json(scheduler, constants=True)
    sampling = sampling_from_scheduler(said, str(scheduler), given)
    about = {"scheduler": str(said.get("_class_name", "")), "model_index.json": str(read.data.get("_name_or_path", ""))}
    return _unet_2d_model(folder, unet, sampling, given, variant, about)


def open_unet(folder: Path, given: Mapping[str, Any], variant: str | None) -> tuple[Weights, ModelSpec]:
    """As `open_pipeline`, for a UNet2DModel without a scheduler: what is not given of that is assumed, and noted."""
    return _unet_2d_model(folder, "", assumed(given), given, variant)


def _place(folder: Path, part: str) -> str:
    """Where a part of a pipeline lies: in a folder of its name, or, as in the first pipelines of all, at the top."""
    return f"{part}/" if (folder / part).is_dir() else ""


def _unet_2d_model(
    folder: Path,
    place: str,
    sampling: Sampling,
    given: Mapping[str, Any],
    variant: str | None,
    about: Mapping[str, str] = NOTHING,
) -> tuple[Weights, ModelSpec]:
    path = inside(folder, f"{place}config.json")
    data = read_json(path, constants=True)
    config = diffusers.config_from_diffusers(data, str(path))
    classes = config.num_classes
    found = find_weights(folder, place, STEM, variant)
    notes = [*sampling.notes]
    if found.variant is not None and variant is None:
        notes.append(f"the weights are variant {found.variant!r}, the only one in the folder")
    spec: dict[str, Any] = {
        "format": FORMAT,
        "name": name_of(folder),
        "family": "ddpm",
        "unet": config.to_dict(),
        "schedule": sampling.schedule,
        "prediction": sampling.prediction,
        "plan": sampling.plan,
        "labels": None if classes is None else {"kind": "classes", "count": classes, "null": None},
        "notes": notes,
    }
    if "shape" not in given:
        spec["shape"] = list(diffusers.image_shape(data, config, str(path)))
    if about and not {"plan", "trained"} & set(given):
        names = {"the folder's name": spec["name"], "the name in model_index.json": about["model_index.json"]}
        names["the name in the U-Net's config.json"] = str(data.get("_name_or_path", ""))
        found_preset = recognised(names, about["scheduler"], data)
        spec = spec if found_preset is None else found_preset.applied(spec)
    naming = diffusers.naming(config)
    weights = Weights(config, found.path, naming.keys, diffusers.modern_name)
    return weights, ModelSpec.from_dict(merged(spec, given), str(folder), arguments_of(given))

"""One file of weights without a config: a checkpoint of Stable Diffusion in latent diffusion's names, or in diffusers'.

What the config would say is told by shapes (`condition_shapes`) and by the family (`stable_diffusion`), as all loaders
of such files do; what is sampled with is assumed, or known by the file's name, and noted.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from fewstep.diffusion.schedules import from_config
from fewstep.errors import ArgumentError, ModelError, some_of
from fewstep.fields import shown
from fewstep.models.given import arguments_of, merged
from fewstep.models.layouts import diffusers_condition, ldm
from fewstep.models.layouts.condition_shapes import config_from_shapes, context_width
from fewstep.models.layouts.diffusers_folder import guided, of_unet
from fewstep.models.layouts.diffusers_scheduler import SAMPLING, STABLE_DIFFUSION, sampling_from_scheduler
from fewstep.models.layouts.foreign import what_it_is
from fewstep.models.layouts.keys import Keys
from fewstep.models.layouts.stable_diffusion import (
    SIZE_OF_BASE,
    TURBO,
    V2,
    Family,
    completed,
    family_of,
    predicted,
)
from fewstep.models.net.unet import UNet
from fewstep.models.recognise import Recognised, recognised
from fewstep.models.safe_load import TensorSource, open_weights
from fewstep.models.spec import ModelSpec
from fewstep.models.weights import Weights

PREFIX: Final = "model.diffusion_model."
AVERAGED: Final = "model_ema.diffusion_model"  # then the name without its dots
EMA: Final = "ema"
# A name that only a U-Net's way up has, in either naming, and one that is beside it.
TELLING: Final = {
    ldm.TELLING: "time_embed.0.weight",
    "up_blocks.0.resnets.0.norm1.weight": "time_embedding.linear_1.weight",
}
SPREAD: Final = 4  # parts of a file that a note lists
PREDICTIONS: Final = {"epsilon": "eps", "eps": "eps", "v": "v", "v_prediction": "v"}
PREDICTION_TYPES: Final = {"eps": "epsilon", "v": "v_prediction", "x_0": "sample"}


@dataclass(frozen=True)
class Network:
    """The U-Net of a file: its tensors by their names in the file, and what these are in diffusers."""

    source: TensorSource
    names: Mapping[str, str]  # in the file -> in diffusers, without what comes before
    in_file: Callable[[str], str]
    shapes: Mapping[str, tuple[int, ...]]  # by diffusers' names


class Only:
    """Some tensors of a source."""

    def __init__(self, source: TensorSource, names: Mapping[str, str]) -> None:
        self.path, self._source = source.path, source
        self.shapes: Mapping[str, tuple[int, ...]] = {name: source.shapes[name] for name in names}

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, in the file's dtype."""
        return self._source.read(name)


def open_file(
    path: Path, given: Mapping[str, Any], variant: str | None, allow_pickle: bool
) -> tuple[Weights, ModelSpec]:
    """The U-Net of a checkpoint before its weights are read, and a spec of what its family is sampled with.

    Args:
        path: .safetensors, or a pickle where that is allowed.
        given: fields of a spec to have in place of what is assumed.
        variant: "ema" for the averaged weights beside the others, in a file that has both; None for the others.
        allow_pickle: also read a pickle.

    Raises:
        ModelError: a file without a U-Net that is known, saying what it is if that can be told.
    """
    source = open_weights(path, allow_pickle, others=True)
    network = _network(source, variant)
    data = config_from_shapes(network.shapes, str(path))
    family = family_of(data, str(path))
    data = completed(data, family, str(path))
    config = diffusers_condition.config_from_diffusers_condition(data, str(path))
    found = recognised({"the file's name": path.stem}, "", data)
    preset = None if {"plan", "trained"} & set(given) else found
    spec: dict[str, Any] = {"name": path.stem, "family": "sd", **of_unet(config)}
    spec |= _sampling(source, data, family, preset, given)
    spec["notes"] = [*spec["notes"], *_unused(source, network, variant)]
    if "shape" not in given:
        base = (family is V2 and given.get("prediction", spec["prediction"]) == "eps") or (
            found is not None and found.preset.name == TURBO
        )
        side = SIZE_OF_BASE if base else family.size
        spec["shape"] = [config.out_channels, side, side]
    keys = diffusers_condition.naming(config).keys

    def in_file(unet: UNet) -> Keys:
        return {
            ours: tuple(replace(piece, name=network.in_file(piece.name)) for piece in pieces)
            for ours, pieces in keys(unet).items()
        }

    weights = Weights(config, path, in_file, source=Only(network.source, network.names))
    return weights, ModelSpec.from_dict(merged(spec, given), str(path), arguments_of(given))


def _network(source: TensorSource, variant: str | None) -> Network:
    """Where in the file the U-Net is. ModelError where it is not, or several times."""
    if variant not in (None, EMA):
        raise ModelError(f"{source.path}: is one file, which has no variant {variant!r}; allowed: {EMA!r}, or None")
    found = [
        (name.removesuffix(telling), telling)
        for telling, second in TELLING.items()
        for name in source.shapes
        if name == telling or name.endswith("." + telling)
        if name.removesuffix(telling) + second in source.shapes
    ]
    if not found:
        what = what_it_is(source.shapes)
        it_is = f"it is {what}" if what else f"its first tensor is {shown(next(iter(source.shapes), None))}"
        allowed = "a checkpoint of Stable Diffusion, or the weights of a UNet2DConditionModel"
        raise ModelError(f"{source.path}: holds no U-Net that is known: {it_is}; allowed: {allowed}")
    if len(found) > 1:
        places = some_of([shown(prefix) for prefix, _ in sorted(found)], SPREAD)
        times = f"{len(found)} times, as {places}"
        raise ModelError(f"{source.path}: holds the network {times}; allowed: one of them alone")
    prefix, telling = found[0]
    inner = {name.removeprefix(prefix): name for name in source.shapes if name.startswith(prefix)}
    _check_dtypes(source, prefix)
    width = context_width({name: source.shapes[inner[name]] for name in inner})
    if width is None:
        said = "holds a U-Net without cross-attention, whose config shapes do not tell"
        allowed = "a folder with its config.json, or fewstep.models.load.load_adm for guided-diffusion's"
        raise ModelError(f"{source.path}: {said}; allowed: {allowed}")
    if telling != ldm.TELLING:
        in_diffusers = back = _same
    else:
        sdxl = any("label_emb.0." in name for name in inner) and width in (1280, 2048)
        names = ldm.Names(inner, str(source.path), ldm.ADDED if sdxl else ldm.VECTOR)
        in_diffusers, back = names.in_diffusers, names.in_file
    place = _placed(source, prefix, variant)
    names_there = {place(name): in_diffusers(name) for name in inner}
    missing = [name for name in names_there if name not in source.shapes]
    if missing:
        raise ModelError(f"{source.path}: has no averaged weights beside the others: {shown(missing[0])} is missing")
    shapes = {there: source.shapes[here] for here, there in names_there.items()}
    return Network(source, names_there, lambda name: place(back(name)), shapes)


def _same(name: str) -> str:
    return name


def _placed(source: TensorSource, prefix: str, variant: str | None) -> Callable[[str], str]:
    """From a name within the U-Net to the name of its tensor in the file."""
    if variant is None:
        return lambda name: prefix + name
    if not prefix.endswith(PREFIX):
        raise ModelError(f"{source.path}: has no averaged weights beside the others; allowed: variant=None")
    root = prefix.removesuffix(PREFIX)
    return lambda name: root + AVERAGED + name.replace(".", "")


def _check_dtypes(source: TensorSource, prefix: str) -> None:
    others: Mapping[str, str] = getattr(source, "others", {})
    for name, dtype in others.items():
        if name.startswith(prefix) and prefix:
            raise ModelError(f"{source.path}: tensor {shown(name)} is of dtype {dtype}; supported: F64, F32, F16, BF16")


def _sampling(
    source: TensorSource,
    data: Mapping[str, Any],
    family: Family,
    found: Recognised | None,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Schedule, prediction, plan and notes, as the family has them unless the file or its name say otherwise."""
    names = {name.rpartition(".")[2]: name for name in (*source.shapes, *getattr(source, "others", {}))}
    for sign in ("edm_mean", "edm_vpred"):
        if sign in names and not set(SAMPLING) <= set(given):
            said = f"holds {names[sign]!r}: it is sampled as EDM's are, of which a single file does not say enough"
            raise ModelError(f"{source.path}: {said}; allowed: schedule=, prediction= and defaults= beside it")
    prediction, notes = _prediction(source, names, data, family, given)
    scheduler = STABLE_DIFFUSION | {"_class_name": family.scheduler, "rescale_betas_zero_snr": "ztsnr" in names}
    scheduler["prediction_type"] = PREDICTION_TYPES[prediction]
    sampling = sampling_from_scheduler(scheduler, str(source.path), given)
    spec: dict[str, Any] = {"schedule": sampling.schedule, "prediction": sampling.prediction, "plan": sampling.plan}
    named = f"the file holds {family.title} by the shapes of its tensors, and no scheduler"
    if found is not None and _fits(found, spec, given):
        preset = found.preset
        spec |= {"plan": preset.defaults, "trained": preset.trained.to_config()}
        spec |= {} if "prediction" in given else {"prediction": preset.network.prediction}
        notes = [f"{named}: recognised as {preset.name} ({preset.family.title}) by {found.by}"]
    elif "plan" not in given:
        spec = guided(spec, None if "time_cond_proj_dim" in data else family.guidance_scale)
        notes = [f"{named}: {spec['plan']['sampler']} on its usual schedule is assumed", *notes]
    return {**spec, "notes": notes}


def _fits(found: Recognised, spec: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether a preset's network can be this one."""
    prediction = given.get("prediction", found.preset.network.prediction)
    try:
        found.preset.check("plan", from_config(spec["schedule"]), prediction)
    except ArgumentError:
        return False
    return True


def _prediction(
    source: TensorSource,
    names: Mapping[str, str],
    data: Mapping[str, Any],
    family: Family,
    given: Mapping[str, Any],
) -> tuple[str, list[str]]:
    """What the U-Net predicts, by what the file says of it or else by its family; and a note where that is a guess."""
    said = PREDICTIONS.get(getattr(source, "metadata", {}).get("modelspec.prediction_type", ""))
    if "v_pred" in names:
        said = "v"
    prediction = said or predicted(data, family)
    if said is not None or "prediction" in given or family is not V2 or prediction != "v":
        return prediction, []
    note = "Stable Diffusion 2 predicts v or eps, which no shape tells: v is assumed, as of 2.1 at 768 x 768 pixels"
    return prediction, [f"{note}; of a base model at 512 x 512 say prediction='eps'"]


def _unused(source: TensorSource, network: Network, variant: str | None) -> list[str]:
    """What of the file is not read."""
    root = next(iter(network.names)).partition(PREFIX)[0] if variant is None else ""
    rest = [name for name in source.shapes if name not in network.names]
    parts = Counter(name.removeprefix(root).split(".")[0] for name in rest)
    if not parts:
        return []
    listed = some_of([f"{count:,} tensors of {shown(part)}" for part, count in parts.most_common()], SPREAD)
    ema = "; variant='ema' takes the averaged weights" if variant is None and "model_ema" in parts else ""
    return [f"what is not the U-Net's is not read: {listed}{ema}"]

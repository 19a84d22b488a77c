"""A network of EDM or FastGen: config.json with the arguments it was made with, beside model.safetensors."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fewstep.diffusion.samplers.woven import twice
from fewstep.diffusion.schedules import MAX_SIGMA, MAX_TIMESTEPS
from fewstep.fields import Fields
from fewstep.models.given import arguments_of, merged
from fewstep.models.hub import name_of
from fewstep.models.layouts import edm
from fewstep.models.spec import FORMAT, ModelSpec
from fewstep.models.weights import Weights, find_weights

STEM: Final = "model"
PRECONDITIONED: Final = "EDMPrecond"
IMPROVED: Final = "iDDPMPrecond"
CLASSES: Final = (PRECONDITIONED, IMPROVED)
REFUSED: Final = {
    "VPPrecond": "is told its time by a formula of its own",
    "VEPrecond": "is told ln(sigma / 2) and predicts -eps",
}
SIGMA_MIN: Final = 0.002  # of EDM's sampler, where the network allows it
SIGMA_MAX: Final = 80.0
LEVELS: Final = 18  # that it visits
STEPS: Final = 2  # of a flow map, as FastGen's recipe for two has them
TRAINING: Final = 1000  # levels, where only their ends are known


def is_edm(data: Mapping[str, Any]) -> bool:
    """Whether a config.json is of EDM's or FastGen's, which name a network's resolution so."""
    return "img_resolution" in data or data.get("_class_name") in (*CLASSES, *REFUSED)


def open_edm(
    folder: Path, data: Mapping[str, Any], where: str, given: Mapping[str, Any], variant: str | None
) -> tuple[Weights, ModelSpec]:
    """The network before its weights are read, and a spec that samples it as EDM does.

    Args:
        folder: the model's.
        data: its config.json, the arguments of `EDMPrecond` or `iDDPMPrecond` and of the network in it by name.
        where: the name of that, for messages.
        given: fields of a spec to have in place of what the folder says.
        variant: of the weights.

    Raises:
        ModelError: `where` in front, naming the first argument that is unknown, out of bounds or not supported.
    """
    read = Fields(data, where)
    kind = read.text("_class_name", PRECONDITIONED, max_length=100)
    if kind not in CLASSES:
        why = f", which {REFUSED[kind]}" if kind in REFUSED else ""
        raise read.error("_class_name", f"got {kind!r}{why}; supported: {', '.join(CLASSES)}")
    config, classes = edm.config_from_edm(read, twice=kind == IMPROVED)
    size, multiple = read.integer("img_resolution", 1, edm.MAX_SIZE), config.size_multiple
    if size % multiple:
        allowed = f"multiples of {multiple}, as it is halved between {config.levels} levels"
        raise read.error("img_resolution", f"got {size}; allowed: {allowed}")
    sampling = _improved(read) if kind == IMPROVED else _preconditioned(read, maps=config.second_time is not None)
    read.finish()
    found = find_weights(folder, "", STEM, variant)
    null = classes if config.num_classes == classes + 1 else None
    spec = {
        "format": FORMAT,
        "name": name_of(folder),
        "family": "edm",
        "unet": config.to_dict(),
        "shape": [config.in_channels, size, size],
        "labels": {"kind": "classes", "count": classes, "null": null} if classes else None,
        **sampling,
    }
    weights = Weights(
        config,
        found.path,
        edm.keys(config, size, classes),
        unused=edm.unused(config),
        joins={"label.weight": edm.class_rows(config, classes)},
    )
    return weights, ModelSpec.from_dict(merged(spec, given), str(folder), arguments_of(given))


def _preconditioned(read: Fields, maps: bool) -> dict[str, Any]:
    """D = c_skip x + c_out F(c_in x, ln(sigma) / 4), by Heun's method on the ladder of EDM's sampler.

    FastGen's may go without c_in, c_skip and c_out; then a flow is told its noise scale, from 0 to 1, the others sigma.
    A flow with a second time is a flow map.
    """
    sigma_data = read.number("sigma_data", 1e-6, 1e6, 0.5)
    read.only("sigma_shift", 0.0, 0.0)
    plain = read.optional_choice("drop_precond", ("both",)) == "both"
    predicts = read.choice("net_pred_type", ("x0", "eps", "flow") if plain else ("x0",), "x0")
    prediction = predicts.replace("x0", "x_0") if plain else "edm"
    straight = read.choice("schedule_type", ("edm", "rf") if plain else ("edm",), "edm") == "rf"
    ends = _ends(read)
    if predicts == "flow" and not straight:
        raise read.error("schedule_type", "got 'edm' beside a flow; supported: rf")
    if straight:
        flow = {"name": "flow", "num_timesteps": TRAINING, "time": "unit"}
        maps = maps and predicts == "flow"
        plan = {"sampler": "flow_map", "steps": STEPS} if maps else {"sampler": "euler", "steps": LEVELS}
        return {"schedule": flow, "prediction": prediction, "plan": plan}
    schedule = {"name": "karras", "num_timesteps": TRAINING, **ends, "time": "sigma" if plain else "edm"}
    return {
        "schedule": schedule if plain else schedule | {"sigma_data": sigma_data},
        "prediction": prediction,
        "plan": {"sampler": "heun", "steps": twice(LEVELS), "spacing": "karras"},
    }


def _ends(read: Fields) -> dict[str, float]:
    """The sigmas between which EDM's sampler runs, as far as the network allows it."""
    low = max(SIGMA_MIN, read.number("sigma_min", 0.0, MAX_SIGMA, 0.0))
    unbounded = read.data.get("sigma_max", math.inf) == math.inf
    read.ignore("sigma_max")
    high = SIGMA_MAX if unbounded else min(SIGMA_MAX, read.number("sigma_max", 0.0, MAX_SIGMA))
    if low >= high:
        raise read.error("sigma_max", f"got {high:g}; allowed: more than {low:g}, where sampling ends")
    return {"sigma_min": low, "sigma_max": high}


def _improved(read: Fields) -> dict[str, Any]:
    """eps of a vp process with the cosine schedule, M - 1 - j for the j of EDM: its u_j are this schedule's sigmas."""
    least = read.number("C_1", 1e-9, 0.5, 0.001)
    schedule = {
        "name": "cosine",
        "num_timesteps": read.integer("M", 2, MAX_TIMESTEPS, 1000),
        "s": read.number("C_2", 0.0, 1.0, 0.008),
        "max_beta": 1 - least,
    }
    return {"schedule": schedule, "prediction": "eps", "plan": {"sampler": "ddim", "steps": LEVELS}}

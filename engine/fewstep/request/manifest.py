"""The warm-up manifest: the kinds of request an engine has served, kept as JSON for the next one to warm up with.

    {"format": 2, "requests": [{"n": 4, "steps": 4, "sampler": "ddim", "guidance_scale": 3.0}, ...]}

An entry stands for a graph key. So it holds what shapes and work depend on, in the words of `Engine.sample`; seeds and
labels are values. `callback`, `inpaint` and `noise` are true where one was given, and `log_prob` where it is wanted.
`guidance_per_call` has the scales of a plan that has one for each call. {"session": {"slots": 8, "lanes": 17, ...}} is
in the words of `Engine.session`.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from fewstep.checks import whole
from fewstep.diffusion.samplers import SAMPLERS
from fewstep.diffusion.trained import MAX_STEPS
from fewstep.errors import ArgumentError
from fewstep.fields import Fields, read_json, shown
from fewstep.files import atomic_write
from fewstep.request.asked import MAX_SAMPLES
from fewstep.request.conditions import Condition
from fewstep.request.guidance.free import MAX_SCALE
from fewstep.request.start import Inpaint
from fewstep.run.decode import OUTPUTS

FORMATS: Final = (1, 2)
MAX_REQUESTS: Final = 1000
FLAGS: Final = {1: ("callback", "mask", "noise"), 2: ("callback", "inpaint", "noise", "log_prob")}
FEATURES: Final = ("stochastic", "statistics", "learned_variance", "known", "given_noise", "preview", "log_prob")


def write(path: str | os.PathLike[str], requests: Sequence[Mapping[str, Any]]) -> None:
    """Write a manifest, whole or not at all; OutputError naming the path and the reason."""
    content = {"format": FORMATS[-1], "requests": [dict(request) for request in requests]}
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=2, allow_nan=False).encode() + b"\n")


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The requests of a manifest, for `sample_arguments`.

    Raises:
        ModelError: naming the file, the entry and the field; fields that are unknown are refused.
    """
    top = Fields(read_json(Path(path)), str(path))
    version = top.integer("format", FORMATS[0], FORMATS[-1])
    found = top.data["requests"] if top.has("requests") else None
    top.finish()
    if not isinstance(found, list) or len(found) > MAX_REQUESTS:
        raise top.error("requests", f"got {shown(found)}; allowed: a list of at most {MAX_REQUESTS} objects")
    return [_request(Fields(entry, f"{path}: requests[{index}]"), version) for index, entry in enumerate(found)]


def named(requests: str | os.PathLike[str] | Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """The requests of a manifest or a list, each with where it stands, for messages."""
    listed: Sequence[Mapping[str, Any]]
    if isinstance(requests, str | os.PathLike):
        where, listed = f"{requests}: ", read(requests)
    else:
        where, listed = "", requests
    if not isinstance(listed, Sequence) or not all(map(_by_name, listed)):
        raise ArgumentError("requests", requests, "a list of mappings, or the path of a manifest")
    for index, request in enumerate(listed):
        for name in ("session", "options"):
            if name in request and not _by_name(request[name]):
                argument = f"{where}requests[{index}]: {name}"
                raise ArgumentError(argument, request[name], "a mapping from names to values")
    return [(f"{where}requests[{index}]", request) for index, request in enumerate(listed)]


def sample_arguments(request: Mapping[str, Any], shape: tuple[int, ...], conditions: Condition) -> dict[str, Any]:
    """Arguments of `Engine.sample` that make a request of this kind: what it only flags stands there as a blank.

    `guidance_per_call` is left to the caller, who has the plan that it belongs to.
    """
    arguments = dict(request)
    asked = whole(arguments.get("n", 1))
    count = asked if asked is not None and 1 <= asked <= MAX_SAMPLES else 1  # any other is refused with the rest
    if arguments.get("callback") is True:
        arguments["callback"] = lambda step: None
    if arguments.pop("inpaint", False) is True:
        arguments["start"] = Inpaint(torch.zeros(shape), torch.ones(shape[1:]))
    if arguments.get("noise") is True:
        arguments["noise"] = torch.zeros(count, *shape)
    return conditions.blank(count) | arguments


def _by_name(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _request(read: Fields, version: int) -> dict[str, Any]:
    if version > 1 and read.has("session"):
        session = _session(read.child("session"))
        read.finish()
        return {"session": session}
    request: dict[str, Any] = {"n": read.integer("n", 1, MAX_SAMPLES)}
    if read.has("steps"):
        request["steps"] = read.integer("steps", 1, MAX_STEPS)
    if read.has("sampler"):
        request["sampler"] = read.choice("sampler", tuple(SAMPLERS))
    request |= _guidance(read, version)
    if read.has("output"):
        request["output"] = read.choice("output", OUTPUTS)
    for flag in FLAGS[version]:
        if read.flag(flag, default=False):
            request["inpaint" if flag == "mask" else flag] = True
    if version > 1:
        options = dict(read.child("options").data) if read.has("options") else {}
        if not all(plain_option(value) for value in options.values()):
            raise read.error("options", f"got {shown(options)}; allowed: options of the sampler, numbers and words")
        request |= {"options": options} if options else {}
    read.finish()
    return request


def plain_option(value: object) -> bool:
    """Whether JSON can say an option of a sampler: a finite number, a word, or some by name, as of a clip."""
    if isinstance(value, Mapping):
        return all(isinstance(each, int | float) and math.isfinite(each) for each in value.values())
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _guidance(read: Fields, version: int) -> dict[str, Any]:
    """In format 1 a list of scales was one for each call."""
    found: dict[str, Any] = {}
    per_call = "guidance_per_call" if version > 1 else "guidance_scale"
    if read.has(per_call) and isinstance(read.data[per_call], list):
        found["guidance_per_call"] = list(read.numbers(per_call, -MAX_SCALE, MAX_SCALE))
    elif read.has("guidance_scale"):
        found["guidance_scale"] = read.number("guidance_scale", -MAX_SCALE, MAX_SCALE)
    if read.has("guidance_rescale"):
        found["guidance_rescale"] = read.number("guidance_rescale", 0, 1)
    return found


def _session(read: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {
        "slots": read.integer("slots", 1, MAX_SAMPLES),
        "lanes": read.integer("lanes", 2, 2 * MAX_SAMPLES + 1),
        "steps": read.integer("steps", 1, MAX_STEPS),
        "history": read.integer("history", 0, 4),
        "output": read.choice("output", OUTPUTS),
        "features": list(read.texts("features")),
    }
    if unknown := [feature for feature in found["features"] if feature not in FEATURES]:
        raise read.error("features", f"got {shown(unknown[0])}; allowed: {', '.join(FEATURES)}")
    read.finish()
    return found

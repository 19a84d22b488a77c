"""The warm-up manifest: the kinds of request an engine has served, kept as JSON for the next one to warm up with.

    {"format": 1, "requests": [{"n": 4, "steps": 4, "sampler": "ddim", "guidance_scale": 3.0}, ...]}

An entry stands for a graph key. So it holds what shapes and work depend on, in the words of `Engine.sample`; seeds
and labels are values. `callback`, `mask` and `noise` are true where one was given.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SAMPLERS
from fewstep.errors import ArgumentError
from fewstep.fields import Fields, read_json, shown
from fewstep.files import atomic_write
from fewstep.request.batch import Batch
from fewstep.request.conditions import LabelSpec
from fewstep.request.lanes import halves_of
from fewstep.request.request import MAX_SAMPLES
from fewstep.run.decode import OUTPUTS
from fewstep.run.graphs.cache import GraphKey
from fewstep.run.graphs.runner import GraphRunner

FORMAT: Final = 1
MAX_REQUESTS: Final = 1000
MAX_STEPS: Final = 100_000
MAX_SCALE: Final = 1e6
FLAGS: Final = ("callback", "mask", "noise")


class Seen:
    """The kinds of batch that an engine has run, and how often. Its caller sees to it that threads take turns."""

    def __init__(self) -> None:
        self._uses: Counter[GraphKey] = Counter()
        self._entries: dict[GraphKey, tuple[dict[str, Any], Plan]] = {}
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it nothing is counted: a warm-up is no use."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def note(self, batch: Batch, watched: bool, noise: bool) -> None:
        """Count a batch; `watched`: a callback was given; `noise`: the noise was."""
        if self._paused:
            return
        key = GraphRunner.key(batch.signature, batch.steps, watched)
        self._uses[key] += 1
        if key in self._entries:
            return
        plan = batch.slots[0].plan
        if all(slot.state.index == 0 and _kind(slot.plan) == _kind(plan) for slot in batch.slots):
            output = batch.signature.output
            entry = {"n": len(batch.samples), **_described(plan)}
            entry |= {"output": "uint8"} if output is not None and output.dtype == torch.uint8 else {}
            given = (watched, batch.signature.known, noise)
            entry |= {flag: True for flag, there in zip(FLAGS, given, strict=True) if there}
            self._entries[key] = entry, plan

    def requests(self, make_plan: Callable[..., Plan]) -> list[dict[str, Any]]:
        """An entry per key, most used first.

        Left out are those that an entry cannot say: batches of unlike plans, resumed ones, and plans whose work
        `make_plan`, called as `Engine.plan` is, does not give again.
        """
        used = [self._entries[key] for key, _ in self._uses.most_common() if key in self._entries]
        said = [(entry, _said(plan, make_plan)) for entry, plan in used]
        return [entry | arguments for entry, arguments in said if arguments is not None][:MAX_REQUESTS]


def write(path: str | os.PathLike[str], requests: Sequence[Mapping[str, Any]]) -> None:
    """Write a manifest, whole or not at all; OutputError naming the path and the reason."""
    content = {"format": FORMAT, "requests": [dict(request) for request in requests]}
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The requests of a manifest, for `sample_arguments`.

    Raises:
        ModelError: naming the file, the entry and the field; fields that are unknown are refused.
    """
    top = Fields(read_json(Path(path)), str(path))
    top.only("format", FORMAT)
    found = top.data["requests"] if top.has("requests") else None
    top.finish()
    if not isinstance(found, list) or len(found) > MAX_REQUESTS:
        raise top.error("requests", f"got {shown(found)}; allowed: a list of at most {MAX_REQUESTS} objects")
    return [_request(Fields(entry, f"{path}: requests[{index}]")) for index, entry in enumerate(found)]


def named(requests: str | os.PathLike[str] | Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """The requests of a manifest or a list, each with where it stands, for messages."""
    listed: Sequence[Mapping[str, Any]]
    if isinstance(requests, str | os.PathLike):
        where, listed = f"{requests}: ", read(requests)
    else:
        where, listed = "", requests
    return [(f"{where}requests[{index}]", request) for index, request in enumerate(listed)]


def sample_arguments(
    request: Mapping[str, Any], shape: tuple[int, int, int], labels: LabelSpec | None
) -> dict[str, Any]:
    """Arguments of `Engine.sample` that make a request of this kind: what it only flags stands there as a blank."""
    arguments = dict(request)
    count = arguments.get("n", 1)
    if arguments.get("callback") is True:
        arguments["callback"] = lambda step: None
    if arguments.get("mask") is True:
        arguments |= {"mask": torch.ones(shape[1:]), "image": torch.zeros(shape)}
    if arguments.get("noise") is True:
        arguments["noise"] = torch.zeros(count, *shape)
    if labels is not None:
        arguments.setdefault("labels", [labels.example] * count)
    return arguments


def _request(read: Fields) -> dict[str, Any]:
    request: dict[str, Any] = {"n": read.integer("n", 1, MAX_SAMPLES)}
    if read.has("steps"):
        request["steps"] = read.integer("steps", 1, MAX_STEPS)
    if read.has("sampler"):
        request["sampler"] = read.choice("sampler", tuple(SAMPLERS))
    if read.has("guidance_scale"):
        each = read.numbers if isinstance(read.data["guidance_scale"], list) else read.number
        scale = each("guidance_scale", -MAX_SCALE, MAX_SCALE)
        request["guidance_scale"] = list(scale) if isinstance(scale, tuple) else scale
    if read.has("guidance_rescale"):
        request["guidance_rescale"] = read.number("guidance_rescale", 0, 1)
    if read.has("output"):
        request["output"] = read.choice("output", OUTPUTS)
    request |= {flag: True for flag in FLAGS if read.flag(flag, default=False)}
    read.finish()
    return request


def _described(plan: Plan) -> dict[str, Any]:
    """The arguments of `Engine.plan` that shapes and work depend on; those that are the default are left out."""
    w, phi = plan.column("w").tolist(), float(plan.column("phi").max())
    described: dict[str, Any] = {"steps": len(plan), "sampler": plan.sampler}
    if set(w) != {1.0}:
        described["guidance_scale"] = w[0] if len(set(w)) == 1 else w
    return described | ({"guidance_rescale": phi} if phi else {})


def _kind(plan: Plan) -> tuple[object, ...]:
    """What a graph key takes from a plan."""
    return len(plan), plan.history, plan.learned_variance, plan.statistics, halves_of(plan)


def _said(plan: Plan, make_plan: Callable[..., Plan]) -> dict[str, Any] | None:
    """The arguments for which `make_plan` gives the plan's work again; None if there are none.

    No guidance has to be said only to a model that has another scale of its own.
    """
    described = _described(plan)
    for arguments in (described, {**described, "guidance_scale": 1.0}):
        try:
            if _kind(make_plan(**arguments)) == _kind(plan):
                return arguments
        except ArgumentError:
            return None
    return None

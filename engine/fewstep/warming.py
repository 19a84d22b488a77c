"""What an engine has served, in the user's words, and how it is made ready for the same again."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from fewstep.checks import named
from fewstep.errors import ArgumentError
from fewstep.request import manifest
from fewstep.request.asked import Asked
from fewstep.request.seen import Seen, words_of
from fewstep.run.buffers import Signature
from fewstep.run.graphs.cache import GraphKey
from fewstep.run.graphs.runner import GraphRunner
from fewstep.run.sample import Sample

if TYPE_CHECKING:
    from fewstep.engine import Engine


def note(seen: Seen, asked: Asked, signature: Signature, samples: Sequence[Sample], watched: bool) -> None:
    """Count a run of some samples of a request; none that was resumed or entered late, which no words can say."""
    if any(sample.start.index for sample in samples):
        return
    plans, output = [sample.plan for sample in samples], signature.output
    flags = {"callback": watched, "inpaint": signature.known, "noise": asked.noise is not None}
    flags["log_prob"] = signature.log_prob

    def words() -> dict[str, Any] | None:
        said = words_of(asked, plans, **flags)
        pixels = output is not None and output.dtype == torch.uint8
        return said | {"output": "uint8"} if said is not None and pixels else said

    seen.note(GraphRunner.key(signature, max(sample.calls for sample in samples), watched), words)


def session_key(signature: Signature) -> GraphKey:
    """The key of a session that admits."""
    return GraphRunner.key(signature, 1, stepwise=True)


def key_of(engine: "Engine", words: Mapping[str, Any]) -> GraphKey:
    """The key that the words of a manifest give."""
    if "session" in words:
        return session_key(engine.open_signature(words["session"])[1])
    arguments = _arguments(engine, words)
    watched = arguments.pop("callback", None) is not None
    log_prob = arguments.pop("log_prob", False)
    ending = engine.ending(arguments.pop("output", "float"))
    samples = engine.samples(**arguments)
    _, signature, _ = engine.prepared(samples, ending, watched, log_prob)
    return GraphRunner.key(signature, max(sample.calls for sample in samples), watched)


def warm(engine: "Engine", requests: str | os.PathLike[str] | Sequence[Mapping[str, Any]]) -> None:
    """Do once what each entry of a manifest or a list stands for, the least used first. Raises as `Engine.warm_up`."""
    for name, words in reversed(manifest.named(requests)):
        try:
            if "session" in words:
                _check_session(words["session"])
                engine.session(**words["session"]).close()
            else:
                engine.sample(**_arguments(engine, words))
        except ArgumentError as error:
            raise ArgumentError(f"{name}: {error.argument}", error.value, error.allowed) from error


def _check_session(words: Mapping[str, Any]) -> None:
    allowed = ("slots", "lanes", "steps", "history", "features", "output")
    for name in words:
        if name not in allowed:
            raise ArgumentError(f"session.{name}", words[name], f"one of {named(allowed, name)}")
    if "slots" not in words:
        raise ArgumentError("session", dict(words), "a mapping that has slots")


def _arguments(engine: "Engine", words: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Engine.sample` for an entry of a manifest."""
    arguments = manifest.sample_arguments(words, engine.model.shape, engine.model.conditions)
    arguments |= arguments.pop("options", {})
    scales = arguments.pop("guidance_per_call", None)
    if scales is not None:
        rescale = arguments.pop("guidance_rescale", 0.0)
        plan = engine.model.planner().plan(arguments.pop("steps", None), arguments.pop("sampler", None))
        arguments["plan"] = plan.with_guidance(scales, rescale=rescale)
    return arguments

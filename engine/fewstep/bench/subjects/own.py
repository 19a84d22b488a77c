"""A caller's own network: an engine, a model, or any module with what has to be known of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor, nn

from fewstep.bench.subjects.architecture import given_shapes
from fewstep.bench.subjects.opening import Opening, random_condition
from fewstep.bench.subjects.own_file import made_by
from fewstep.bench.subjects.subject import OWN, Subject
from fewstep.bench.subjects.weights import NO_COUNTERPART
from fewstep.checks import as_tensor, only
from fewstep.diffusion.schedules import Schedule, from_config
from fewstep.engine import Engine
from fewstep.errors import ArgumentError
from fewstep.models.model import Model
from fewstep.models.net.unet import UNet
from fewstep.run.inputs import Inputs

ALLOWED = "a fewstep.Engine, a fewstep.Model, a torch.nn.Module or a fewstep.bench.Subject"
OF_A_MODULE = "for a torch.nn.Module, which does not say it itself"


@dataclass(frozen=True)
class Own:
    """What is said of a network that does not say it itself.

    Attributes:
        shape: (C, H, W) of one sample of a module; or C and one size, or C and three.
        schedule: of a module: a `Schedule`, the name of one, such as "linear", or {"name": ..., ...}.
        prediction: of a module: "eps" unless given.
        labels: of a module: how many classes it takes, or what `Model` takes as conditions.
        time: of a module: as `Model` takes it.
        condition: what any network takes beside x, t and labels, by the names of its call: a tensor of ONE sample, or a
            shape, for random numbers.
    """

    shape: Sequence[int] | None = None
    schedule: Schedule | Mapping[str, Any] | str | None = None
    prediction: str | None = None
    labels: int | Mapping[str, Any] | None = None
    time: str | None = None
    condition: Mapping[str, Tensor | Sequence[int]] | None = None


OF_MODULES = tuple(each.name for each in fields(Own) if each.name != "condition")


def own_subject(network: object, device: str | None = None, max_batch: int = 16, **said: Any) -> Subject:
    """A network that a caller has made, on torch and in float32.

        own_subject(unet, shape=(3, 32, 32), schedule=fewstep.schedules.linear(1000))

    It has no `source`: another process cannot make it again.

    Args:
        network: an `Engine`, a `Model`, a module or a `Subject`, which is returned as it is.
        device: where it runs; where an engine or a module is unless given.
        max_batch: samples at once, at most; an engine has its own.
        said: attributes of `Own`.

    Raises:
        ArgumentError: something else; or what a module lacks, and how to give it.
    """
    only("own_subject", said, [each.name for each in fields(Own)])
    own = Own(**said)
    if isinstance(network, Subject):
        _nothing_said(own, "condition", *OF_MODULES)
        return network
    if isinstance(network, Engine):
        _nothing_said(own, *OF_MODULES)
        model, where, lanes = network.model, device or str(network.device), network.max_batch
    elif isinstance(network, Model):
        _nothing_said(own, *OF_MODULES)
        model, where, lanes = network, device or _place(network.module), max_batch
    elif isinstance(network, nn.Module):
        model, where, lanes = _model(network, own), device or _place(network), max_batch
    else:
        raise ArgumentError("network", f"a {type(network).__name__}", ALLOWED)
    model = _without_words(model)
    opening = Opening(model.name or type(model.module).__name__, where, lanes)
    condition = _condition(model, own.condition, where)
    title = f"{opening.name}, its own weights"
    return Subject(opening.engine(model), title, {}, OWN, None, NO_COUNTERPART, condition)


def file_subject(opening: Opening, said: Mapping[str, Any] | None = None) -> Subject:
    """What "my_file.py:make_model" returns, as `own_subject` takes it.

    Raises:
        ModelError: no such file or function, or one that raises.
        ArgumentError: it returns something else, or a module of which something is not known.
    """
    if opening.size is not None:
        raise ArgumentError("size", opening.size, f"nothing: {opening.name} says its shape itself")
    made = made_by(opening.name)
    if not isinstance(made, Engine | Model | nn.Module | Subject):
        raise ArgumentError(opening.name, f"a {type(made).__name__}", f"a function that returns {ALLOWED}")
    found = own_subject(made, opening.device, opening.max_batch, **(said or {}))
    title = f"{opening.name}, {found.title}"
    return replace(found, title=title, source=opening.source | ({"own": dict(said)} if said else {}))


def _nothing_said(own: Own, *names: str) -> None:
    for name in names:
        if getattr(own, name) is not None:
            raise ArgumentError(name, getattr(own, name), f"nothing: it is {OF_A_MODULE}")


def _model(module: nn.Module, own: Own) -> Model:
    how = f"{OF_A_MODULE}: give it here, or make a fewstep.Model(module, schedule=..., shape=...)"
    if own.shape is None:
        raise ArgumentError("shape", None, f"(channels, height, width) of one sample, {how}")
    if own.schedule is None:
        raise ArgumentError("schedule", None, f"the schedule it was trained on, such as 'linear', {how}")
    labels = {"kind": "classes", "count": own.labels} if isinstance(own.labels, int) else own.labels
    return Model(
        module,
        schedule=_schedule(own.schedule),
        shape=own.shape,
        prediction="eps" if own.prediction is None else own.prediction,
        time=own.time,  # type: ignore[arg-type]  # which `Model` checks
        conditions=labels,
    )


def _schedule(said: Schedule | Mapping[str, Any] | str) -> Schedule:
    if isinstance(said, Schedule):
        return said
    return from_config({"name": said} if isinstance(said, str) else said)


def _place(module: nn.Module) -> str:
    """Where a module is; the CPU for one without tensors."""
    return next((str(each.device) for each in (*module.parameters(), *module.buffers())), "cpu")


def _without_words(model: Model) -> Model:
    """As it is measured: of texts the embeddings are given, and a decoder has no part in it."""
    told = "context" in model.conditions.inputs
    if not told and model.decoder is None:
        return model
    known = {each.name: getattr(model, each.name) for each in fields(Model) if each.name != "module"}
    known |= {"decoder": None, "encoder": None} | ({"conditions": None} if told else {})
    return Model(model.module, **known)


def _condition(model: Model, said: Mapping[str, Any] | None, device: str) -> dict[str, Tensor]:
    """What is said, and random numbers for the rest that a U-Net of ours takes; ArgumentError where something lacks."""
    network, given = model.module, dict(said or {})
    shapes = given_shapes(network.config, model.shape) if isinstance(network, UNet) else {}
    made: dict[str, Tensor] = {}
    for name, value in given.items():
        tensor = as_tensor(value) if isinstance(value, Tensor) else None
        if tensor is None:
            shapes[name] = _shape(name, value)
        else:
            shapes.pop(name, None)
            made[name] = tensor.to(device)
    made |= random_condition(shapes, device)
    _check_inputs(model, made)
    return made


def _shape(name: str, value: object) -> tuple[int, ...]:
    sizes = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else None
    if sizes is None or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ArgumentError(f"condition[{name!r}]", value, "a tensor of one sample, without its batch, or its shape")
    return tuple(sizes)


def _check_inputs(model: Model, made: Mapping[str, Tensor]) -> None:
    inputs = Inputs.of(model.module)
    known = {inputs.labels if name == "labels" else name for name in (*model.conditions.inputs, *model.guidance.inputs)}
    for name in made:
        if not inputs.takes(name):
            raise ArgumentError("condition", name, f"what the network's call takes beside {inputs.told}: {inputs}")
    for name in inputs.required:
        if name not in known | made.keys():
            allowed = f"all that the network's call requires: condition={{{name!r}: its shape for one sample}}"
            if name == inputs.labels:
                allowed += ", or labels=, how many classes there are"
            raise ArgumentError("condition", f"no {name!r}", allowed)

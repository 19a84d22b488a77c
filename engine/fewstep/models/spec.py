"""What a model folder says of itself: `fewstep.json`, beside `model.safetensors`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import Any, Final

from fewstep.checks import as_python
from fewstep.diffusion.samplers import SAMPLERS, build_plan
from fewstep.diffusion.schedules import from_config
from fewstep.diffusion.spacings import LADDERS
from fewstep.diffusion.trained import MAX_STEPS, trained_from_config
from fewstep.errors import ArgumentError
from fewstep.fields import Fields, shown
from fewstep.models.net.config import MAX_CLASSES, UNetConfig
from fewstep.request.conditions import condition_from_config
from fewstep.request.conditions.classes import MAX_NAME
from fewstep.request.guidance import guidance_from_config
from fewstep.request.guidance.free import MAX_SCALE

FORMAT: Final = 1
FAMILIES: Final = ("ddpm", "adm", "edm", "sd")
PREDICTED: Final = tuple(dict.fromkeys(each for sampler in SAMPLERS.values() for each in sampler.predictions))
MAX_SIZE: Final = 16_384
MAX_TEXT: Final = 10_000  # characters of what is written of a model
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True)
class ModelSpec:
    """A model in numbers and words; everything but the weights.

    Reading is strict: unknown fields, wrong types, values out of bounds, and a schedule, labels or plan that
    cannot be made raise ModelError naming the field. Names in the file are looked up in lists, never imported.
    What is there is what a file gives back: numbers of numpy are Python's own, and lists and fields have one form.
    """

    name: str
    family: str
    unet: UNetConfig
    shape: tuple[int, int, int]  # channels, height, width of what is sampled: an image, or its latents
    schedule: dict[str, Any]  # as `schedules.from_config` takes it
    prediction: str
    plan: dict[str, Any]  # {"sampler": "ddim", "steps": 4, ...}: what `Engine.plan` begins with
    labels: dict[str, Any] | None = None  # as `conditions.condition_from_config` takes it
    guidance: dict[str, Any] | None = None  # as `guidance.guidance_from_config` takes it
    trained: dict[str, Any] | None = None  # as `trained.trained_from_config` takes it; None: for any plan
    description: str = ""
    licence: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()  # what a user should know, such as a schedule that had to be assumed

    def __post_init__(self) -> None:
        for name, value in _checked(Fields(self.to_dict(), "ModelSpec")).items():
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it; `from_dict` is the inverse."""
        values = {field.name: _json(getattr(self, field.name)) for field in fields(self)}
        unet = self.unet.to_dict() if isinstance(self.unet, UNetConfig) else self.unet
        return {"format": FORMAT} | values | {"unet": unet}

    @classmethod
    def from_dict(cls, data: Any, where: str = "ModelSpec", arguments: Mapping[str, str] = NOTHING) -> "ModelSpec":
        """The spec that JSON data describes.

        Args:
            data: the object.
            where: what messages start with, such as the file.
            arguments: fields that a caller said in place of the file, and by which argument; of these, messages start
                with the argument.
        """
        read = Fields(data, where).data
        defaults = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
        return cls(**_checked(Fields({**defaults, **read}, where, arguments, apart=frozenset(arguments))))


def _json(value: Any) -> Any:
    """A field's value in the types that JSON has: no array, no tuple, no number of numpy."""
    if isinstance(value, Mapping):
        return {name: _inner(part) for name, part in value.items()}
    return as_python(value)


def _inner(value: Any) -> Any:
    if isinstance(value, Mapping):  # such as clip={"limit": 1.5, "ratio": 0.99}, and nothing deeper
        return {name: as_python(part) for name, part in value.items()}
    return as_python(value)


def _checked(read: Fields) -> dict[str, Any]:
    read.only("format", FORMAT)
    values: dict[str, Any] = {
        "name": read.text("name", max_length=255),
        "family": read.choice("family", FAMILIES),
        "unet": UNetConfig.from_dict(read.child("unet").data, read.at("unet")),
        "shape": read.integers("shape", 1, MAX_SIZE),
        "schedule": dict(read.child("schedule").data),
        "prediction": read.choice("prediction", PREDICTED),
        "plan": _plan(read.child("plan")),
        "labels": _labels(read.child("labels")) if read.has("labels") else None,
        "guidance": _guidance(read.child("guidance")) if read.has("guidance") else None,
        "trained": _trained(read.child("trained")) if read.has("trained") else None,
        **{name: read.text(name, max_length=MAX_TEXT) for name in ("description", "licence", "source")},
        "notes": read.texts("notes"),
    }
    read.finish()
    _check_shape(read, values)
    _check_labels(read, values)
    _check_guidance(read, values)
    _check_plan(read, values)
    _check_trained(read, values)
    return values


def _plan(read: Fields) -> dict[str, Any]:
    read.text("sampler", max_length=100)
    read.integer("steps", 1, MAX_STEPS)
    for name in ("schedule", "prediction"):
        if name in read.data:
            raise read.error(name, "belongs beside the plan, not in it")
    if "guidance_scale" in read.data:
        read.number("guidance_scale", -MAX_SCALE, MAX_SCALE)
    if "guidance_rescale" in read.data:
        raise read.error("guidance_rescale", "is for a request to ask for; a plan may have a guidance_scale")
    if "strength" in read.data:
        raise read.error("strength", "is for a request to ask for, with the image that a sample starts from")
    plan = dict(read.data)
    ladder = plan.get("spacing") in tuple(LADDERS)
    if plan.get("sampler") == "consistency" and not ladder and "sigma_boundary" not in plan and "sigma_min" in plan:
        plan["sigma_boundary"] = plan.pop("sigma_min")  # its name in folders that are older
    return plan


def _labels(read: Fields) -> dict[str, Any]:
    kind = read.choice("kind", ("classes", "continuous"))
    values: dict[str, Any]
    if kind == "classes":
        count = read.integer("count", 1, MAX_CLASSES)
        null = read.optional_integer("null", 0, count)
        names = read.texts("names", (), max_length=MAX_NAME)
        # Absent where there are none: so a folder of before names reads and writes the same.
        values = {"count": count, "null": null} | ({"names": list(names)} if names else {})
    else:
        values = {"min": read.number("min", -1e9, 1e9), "max": read.number("max", -1e9, 1e9)}
    read.finish()
    return {"kind": kind} | values


def _guidance(read: Fields) -> dict[str, Any]:
    values = {name: read.number(name, -MAX_SCALE, MAX_SCALE) for name in ("min", "max", "default")}
    read.finish()
    return values


def _trained(read: Fields) -> dict[str, Any]:
    values = {"sampler": read.text("sampler", max_length=100), "steps": list(read.integers("steps", 1, MAX_STEPS))}
    # Absent where any scale will do: so a folder of before it reads and writes the same.
    scales = {"scales": list(read.numbers("scales", -MAX_SCALE, MAX_SCALE))} if read.has("scales") else {}
    read.finish()
    return values | scales


def _check_shape(read: Fields, values: dict[str, Any]) -> None:
    unet, shape = values["unet"], values["shape"]
    # One with cross-attention may take further channels beside the sample, and sides that are halved to odd ones.
    latent, multiple = unet.condition is not None, 1 if unet.condition is not None else unet.size_multiple
    channels = shape[:1] <= (unet.in_channels,) if latent else shape[:1] == (unet.in_channels,)
    if len(shape) != 3 or not channels or shape[1] % multiple or shape[2] % multiple:
        sizes = f"[{'C' if latent else unet.in_channels}, H, W] with "
        sizes += f"C at most {unet.in_channels}" if latent else f"H and W multiples of {multiple}"
        raise read.error("shape", f"got {shown(list(shape))}; allowed: {sizes}, as the U-Net has it")
    learned = values["plan"].get("variance") == "learned_range"
    counts = (2 * shape[0],) if learned else (shape[0], 2 * shape[0])
    if unet.out_channels not in counts:
        allowed = " or ".join(map(str, counts)) + (" (the variance is learned)" if learned else "")
        raise read.error("unet", f"out_channels: got {unet.out_channels}; allowed: {allowed}")


def _check_labels(read: Fields, values: dict[str, Any]) -> None:
    unet, labels = values["unet"], values["labels"]
    expected: tuple[int | None, tuple[float, float] | None]
    if labels is None:
        expected = (None, None)
    elif labels["kind"] == "classes":
        # A null class beyond the last one is a row of the embedding of its own.
        expected = (labels["count"] + (labels["null"] == labels["count"]), None)
    else:
        expected = (None, (labels["min"], labels["max"]))
    if (unet.num_classes, unet.label_range) != expected:
        has = f"num_classes {unet.num_classes}, label_range {unet.label_range}"
        raise read.error("labels", f"got {shown(labels)}; allowed: what the U-Net has, {has}")
    with _naming(read, "labels"):
        condition_from_config(labels)


def _check_guidance(read: Fields, values: dict[str, Any]) -> None:
    guidance, unet, labels = values["guidance"], values["unet"], values["labels"]
    expected = None if guidance is None else (guidance["min"], guidance["max"])
    embeds = unet.condition is not None and unet.condition.guidance_channels is not None  # a scale of any range
    if unet.guidance_range != expected and not embeds:
        has = f"guidance_range {unet.guidance_range}"
        raise read.error("guidance", f"got {shown(guidance)}; allowed: what the U-Net has, {has}")
    with _naming(read, "guidance"):
        guidance_from_config(guidance)
    scale = values["plan"].get("guidance_scale", 1)
    if guidance is not None and "guidance_scale" in values["plan"]:
        raise read.error("plan", f"guidance_scale: got {scale}; allowed: none beside guidance, whose default says it")
    # A context comes with what stands for none, by the request that gives it.
    if scale != 1 and unet.condition is None and (labels is None or labels.get("null") is None):
        raise read.error("plan", f"guidance_scale: got {scale}; allowed: 1, as there is no null label to guide from")


def _check_plan(read: Fields, values: dict[str, Any]) -> None:
    with _naming(read, "schedule"):
        schedule = from_config(values["schedule"])
        if not schedule.time_said and values["prediction"] not in ("consistency", "edm"):
            raise ArgumentError(
                "time", None, f"what a {values['prediction']} network is told: sigma, edm or consistency"
            )
    with _naming(read, "plan"):
        plan = build_plan(schedule=schedule, prediction=values["prediction"], **values["plan"])
        if plan.second_time and values["unet"].second_time is None:
            allowed = "one whose r is t, such as ddim or euler: the U-Net is told t alone, and takes no r"
            raise ArgumentError("sampler", plan.sampler, allowed)


def _check_trained(read: Fields, values: dict[str, Any]) -> None:
    plan = values["plan"]
    with _naming(read, "trained"):
        trained = trained_from_config(values["trained"])
    if trained is not None and not trained.lists(plan["sampler"], plan["steps"]):
        default = f"{plan['sampler']} with {plan['steps']} steps"
        raise read.error(
            "trained", f"got {str(trained)[:80]}; allowed: what lists the plan of the model, {default}, or None"
        )


@contextmanager
def _naming(read: Fields, name: str) -> Iterator[None]:
    """What goes wrong inside is the fault of this field of the file."""
    try:
        yield
    except ArgumentError as error:
        if read.said_apart(error.argument):  # such as a time that a given schedule does not have
            raise
        if read.said_apart(name):
            argument = f"{read.called(name)}: {error.argument}"
            raise ArgumentError(argument, error.value, error.allowed, error.in_python) from error
        raise read.error(name, str(error)) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise read.error(name, f"got {shown(read.data[name])}; a value is of the wrong kind") from error

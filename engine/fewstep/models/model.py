"""A model: a network and all that has to be known of it to sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import nn

from fewstep.callers import outside
from fewstep.checks import entries, flag, named, one_of, only, whole
from fewstep.diffusion.presets import preset_named
from fewstep.diffusion.samplers import build_plan
from fewstep.diffusion.schedules import Schedule, from_config
from fewstep.diffusion.times import TIMES, Time
from fewstep.diffusion.trained import Trained, trained_from_config
from fewstep.errors import ArgumentError
from fewstep.models.bundled import model_folder
from fewstep.models.download import fetch
from fewstep.models.given import spec_fields, usual_plan, with_preset
from fewstep.models.load import load_model
from fewstep.models.spec import ModelSpec
from fewstep.request.conditions import Condition, condition_from_config
from fewstep.request.guidance import Guidance, guidance_from_config
from fewstep.request.planning import PLANNED, Planner, check_options
from fewstep.run.inputs import LABEL_ARGUMENTS, Inputs

SIGMA_DATA = 0.5  # of the data that EDM networks are made for, unless their schedule says another scale

Prediction = Literal["eps", "x_0", "v", "flow", "score", "edm", "consistency"]


@dataclass(frozen=True, eq=False, init=False)
class Model:
    """A network and what it was trained for. Frozen: an engine never changes it, nor the network.

    Attributes:
        module: the network, called as module(x_in [R, C, H, W], t [R], labels=...). Ours, diffusers', or any other. One
            that names `r` is told a second time [R] too: where a flow map goes to, and t unless the plan says more.
        schedule: the schedule it was trained on, such as `fewstep.schedules.cosine(1000)`; its t is what `time` says.
        shape: (C, H, W) of one sample; or C and one size, for sequences, or three, for volumes.
        prediction: what it predicts: "eps", "x_0", "v", "flow", "score", "edm" (the raw answer of a network that
            is preconditioned for the schedule's sigma_data) or "consistency".
        time: what it is told as t: "timestep", as the schedule counts; "unit", that divided by their number; "index",
            which level it is, as an int64; "sigma", the Karras sigma itself; "edm", ln(sigma) / 4; or "consistency", a
            thousand times that. A schedule of sigmas has no timesteps to count, and so neither of the first two.
        conditions: what it may be asked for: `Classes`, `Numbers`, `Prompts` or `Unconditional`.
        guidance: how it is guided: `ClassifierFree` or `EmbeddedGuidance`.
        defaults: of `Engine.plan`: a sampler, steps, and options of that sampler. Unless said 4 steps of "flow_map" for
            a network that names `r`, of "consistency" for one that predicts that, else of "ddim".
        trained: what a distilled model was trained for; other plans run with an `UntrainedPlanWarning`.
        decoder: what makes images [B, C', H', W'] of the final x [B, C, H, W], for a latent model. Any
            module; it is called in its own dtype, as a part of the run. Of an autoencoder of diffusers
            `fewstep.pipelines.latents.LatentDecoder` makes one.
        encoder: what makes x_0 [B, C, H, W] of images [B, C', H', W'], for starts from pictures of a latent model. Any
            module; it is called in its own dtype, before the run. `LatentEncoder` there is one.
        name: for the record.
    """

    module: nn.Module
    schedule: Schedule
    shape: tuple[int, ...]
    prediction: Prediction
    time: Time
    conditions: Condition
    guidance: Guidance
    defaults: Mapping[str, Any]
    trained: Trained | None
    decoder: nn.Module | None
    encoder: nn.Module | None
    name: str

    def __init__(
        self,
        module: nn.Module,
        *,
        schedule: Schedule,
        shape: Sequence[int],
        prediction: str = "eps",
        time: Time | None = None,
        conditions: Condition | Mapping[str, Any] | None = None,
        guidance: Guidance | Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | str | None = None,
        trained: Trained | Mapping[str, Any] | None = None,
        decoder: nn.Module | None = None,
        encoder: nn.Module | None = None,
        name: str = "",
    ) -> None:
        """Check what is given.

        Args:
            module, schedule, shape, prediction, decoder, encoder, name: as the attributes.
            time: as the attribute; None for what the schedule says. A schedule of sigmas says nothing unless it was
                made to, as karras(time="edm") is, and only a consistency model is told what its paper has.
            conditions: or a dict like {"kind": "classes", "count": 10, "null": 10}; None for a model without labels.
            guidance: or {"min": 1.0, "max": 4.0, "default": 1.5}, where the module takes the scale itself, as
                module(..., guidance=[R]), so that a sample owns one lane at any scale. None: by two halves, where there
                is a null condition.
            defaults: {"sampler": "ddim", "steps": 4, ...} with options of that sampler, and perhaps the guidance_scale
                to sample with unless told (1 if it is not there). Or the name of a preset, such as "lightning-4", whose
                settings these are then, and which says what the model was trained for.
            trained: or {"sampler": "ddim", "steps": [4]}, perhaps with the guidance "scales" that it takes, [1, 1] for
                none.

        Raises:
            ArgumentError: naming the argument and what is allowed.

        Warns:
            UntrainedPlanWarning: its own plan is guided as it was not trained to be.
        """
        if not isinstance(module, nn.Module):
            raise ArgumentError("module", type(module).__name__, "a torch.nn.Module")
        if not isinstance(schedule, Schedule):
            raise ArgumentError("schedule", schedule, "a Schedule, such as fewstep.schedules.linear(1000)")
        _check_choice("prediction", prediction, get_args(Prediction))
        schedule = _told(schedule, time, prediction)
        for argument, part in {"decoder": decoder, "encoder": encoder}.items():
            if part is not None and not isinstance(part, nn.Module):
                raise ArgumentError(argument, type(part).__name__, "a torch.nn.Module")
        if encoder is not None and decoder is None:
            raise ArgumentError("encoder", type(encoder).__name__, "None without a decoder")
        if not isinstance(name, str):
            raise ArgumentError("name", name, "a text")
        said = with_preset({"defaults": defaults, "trained": trained})
        if isinstance(defaults, str):
            preset_named("defaults", defaults).check("defaults", schedule, prediction)
        given = usual_plan(prediction, len(schedule), said["defaults"], _is_flow_map(module, schedule, prediction))
        if "strength" in given:
            allowed = "no strength: a sample has it, by start=fewstep.Image(x, strength)"
            raise ArgumentError("defaults", {"strength": given["strength"]}, allowed)
        check_options(given, [name for name in PLANNED if name != "strength"])
        values = {
            "module": module,
            "schedule": schedule,
            "shape": _checked_shape(shape),
            "prediction": prediction,
            "time": schedule.time,
            "conditions": condition_from_config(conditions),
            "guidance": guidance_from_config(guidance, given.pop("guidance_scale", None)),
            "defaults": MappingProxyType(given),
            "trained": trained_from_config(said["trained"]),
            "decoder": decoder,
            "encoder": encoder,
            "name": name,
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)
        self._check_inputs()
        self._check_plan(said["defaults"] is not None)

    def _check_plan(self, told: bool) -> None:
        """Whether its own plan can be made, and is one that it was trained for."""
        if self.trained is not None and not self.trained.lists(self.defaults["sampler"], self.defaults["steps"]):
            raise ArgumentError("trained", str(self.trained), "what lists the default plan, which is another")
        plan = self.planner().plan() if told else None
        if plan is not None and self.trained is not None:
            self.trained.warn(self.name, plan, None, outside())

    def _check_inputs(self) -> None:
        """Whether the network can be called with what the model says it takes."""
        inputs = Inputs.of(self.module)
        if not inputs.callable:
            found = f"{type(self.module).__name__}, whose forward does not take x and t"
            raise ArgumentError("module", found, "a network that is called as module(x, t), and with more by name")
        for name in self.conditions.inputs:
            if not inputs.takes(inputs.labels if name == "labels" else name):
                called = f"labels ({', '.join(LABEL_ARGUMENTS)})" if name == "labels" else name
                allowed = f"None: the network's call takes no {called}, but {inputs.told}, and: {inputs}"
                raise ArgumentError("conditions", self.conditions, allowed)
        for name in self.guidance.inputs:
            if not inputs.takes(name):
                allowed = f"None: the network's call takes no {name}, but {inputs.told}, and: {inputs}"
                raise ArgumentError("guidance", self.guidance, allowed)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        steps: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        allow_pickle: bool = False,
        variant: str | None = None,
        download: bool = False,
        **overrides: Any,
    ) -> "Model":
        """The model of a folder, ours (`fewstep.json`) or diffusers', or of a single file of Stable Diffusion.

        Args:
            folder: the model folder or file; "digits", a model in the box with students for 1, 2, 4 and 8 steps; or a
                name on the Hugging Face hub, such as "stabilityai/sd-turbo".
            steps: model calls that will be asked for, by which a student in the box is picked; 4 unless given.
            dtype: of the weights.
            allow_pickle: also read weights stored as pickles; they are refused otherwise.
            variant: which weights of a diffusers folder, such as "fp16"; the plain ones unless given, or the only ones.
                "ema" for those of a file that has averaged weights beside the others.
            download: fetch what is read of a model of the hub, as far as the hub's cache on this machine lacks it (see
                `download.fetch`). Nothing is downloaded otherwise.
            overrides: attributes of `Model` to have in place of the folder's, which is not asked for them: so a folder
                whose scheduler fewstep does not know is read with schedule, prediction and defaults.

        Raises:
            ModelError: a file that is missing, damaged, or not what its config says.
            ArgumentError: an override that is not what the attribute takes.
        """
        only("from_pretrained", overrides, FIELDS)
        if "shape" in overrides:
            overrides["shape"] = _checked_shape(overrides["shape"])
        given = spec_fields(overrides)
        if flag("download", download):
            fetch(str(folder), variant, allow_pickle)
        path = model_folder(folder, steps)
        unet, spec = load_model(path, dtype=dtype, allow_pickle=allow_pickle, variant=variant, given=given)
        return cls.of(unet, spec, **overrides)

    @classmethod
    def of(cls, module: nn.Module, spec: ModelSpec, **overrides: Any) -> "Model":
        """The model that a network and what its folder says of it make, with some attributes in place of the spec's."""
        said: dict[str, Any] = {
            "schedule": from_config(spec.schedule),
            "shape": spec.shape,
            "prediction": spec.prediction,
            "conditions": spec.labels,
            "defaults": spec.plan,
            "guidance": spec.guidance,
            "trained": spec.trained,
            "name": spec.name,
        }
        return cls(module, **(said | overrides))

    def planner(self) -> Planner:
        """What makes its plans."""
        second_time = Inputs.of(self.module).second_time
        told = self.schedule, self.prediction, self.defaults, self.guidance
        return Planner(*told, self.trained, self.name, second_time=second_time)


def _told(schedule: Schedule, time: str | None, prediction: str) -> Schedule:
    """The schedule in the words that the network is told its time in."""
    if prediction == "edm" and schedule.sigma_data is None:
        schedule = schedule.preconditioned(SIGMA_DATA)
    if time is not None:
        _check_choice("time", time, TIMES)
        return schedule.told(time)
    if schedule.time_said:
        return schedule
    if prediction in ("consistency", "edm"):
        return schedule.told(prediction)
    allowed = 'what the network takes: "sigma" itself, "edm" for ln(sigma) / 4, "consistency" for 1000 ln(sigma) / 4'
    raise ArgumentError("time", f"None, of a network on a {schedule.name} schedule that predicts {prediction}", allowed)


def _is_flow_map(module: nn.Module, schedule: Schedule, prediction: str) -> bool:
    """Whether a network names `r`, and is told times in which a step of a flow map can be said."""
    if not Inputs.of(module).second_time:
        return False
    try:
        build_plan("flow_map", schedule, 1, prediction)
    except ArgumentError:
        return False
    return True


def _check_choice(argument: str, value: object, allowed: Sequence[str]) -> None:
    if not one_of(value, allowed):
        raise ArgumentError(argument, value, named(allowed, value))


def _checked_shape(shape: object) -> tuple[int, ...]:
    sizes = [whole(size) for size in entries(shape) or ()]
    found = tuple(size for size in sizes if size is not None and size > 0)
    if not 2 <= len(sizes) <= 4 or len(found) != len(sizes):
        allowed = "positive integers: (channels, height, width), or channels and one or three sizes"
        raise ArgumentError("shape", shape, allowed)
    return found


FIELDS = tuple(each.name for each in fields(Model) if each.name != "module")  # what `from_pretrained` takes

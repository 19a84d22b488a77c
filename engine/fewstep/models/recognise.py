"""Which preset a diffusers folder is for: by what it is called, and by what its scheduler and U-Net say."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fewstep.callers import outside
from fewstep.diffusion.presets import PRESETS, Preset
from fewstep.diffusion.samplers import build_plan
from fewstep.diffusion.schedules import from_config
from fewstep.diffusion.trained import same_levels
from fewstep.errors import ArgumentError, UntrainedPlanWarning

LCM: Final = "LCMScheduler"
CLASSES: Final = {"TCDScheduler": "tcd", "SCMScheduler": "sana-sprint", "FlowMapEulerDiscreteScheduler": "anyflow"}


@dataclass(frozen=True)
class Recognised:
    """A preset, and by what it was found."""

    preset: Preset
    by: str

    def applied(self, spec: Mapping[str, Any], call: str = "from_pretrained(folder") -> dict[str, Any]:
        """The fields of a spec with what the preset adds: what its scheduler's file says stays as it is.

        `call` is how the model is being opened, for advice.

        `UntrainedPlanWarning` where that is another sampler, or other levels, than the preset's; then nothing is added.
        """
        preset, notes = self.preset, list(spec.get("notes", ()))
        plan = {**preset.defaults, **spec["plan"], "steps": preset.defaults["steps"]}
        if (unlike := self._unlike(spec, plan)) is not None:
            fact = f"{spec['name']} looks like {preset.name} by {self.by}, but its scheduler {unlike}"
            advice = f"say what is right: {call}, defaults={preset.name!r})"
            warnings.warn(UntrainedPlanWarning(fact, advice, {"plan": preset.name}), stacklevel=outside())
            return {**spec, "notes": [*notes, fact]}
        note = f"recognised as {preset.name} ({preset.family.title}) by {self.by}"
        return {**spec, "plan": plan, "trained": preset.trained.to_config(), "notes": [*notes, note]}

    def _unlike(self, spec: Mapping[str, Any], plan: Mapping[str, Any]) -> str | None:
        """What the scheduler says that the preset does not, in words that follow "its scheduler"."""
        preset, schedule = self.preset, from_config(spec["schedule"])
        try:
            preset.check("plan", schedule, spec["prediction"])
        except ArgumentError:
            kind, prediction = preset.network.kind, preset.network.prediction
            found = f"is for a network that predicts {spec['prediction']} on a schedule of kind {schedule.kind}"
            return f"{found}, which would have to be {prediction} and {kind}"
        if spec["plan"]["sampler"] != preset.sampler:
            return f"is {spec['plan']['sampler']}, which would have to be {preset.sampler}"
        own, right = (
            build_plan(schedule=schedule, prediction=spec["prediction"], **settings).levels
            for settings in ({**plan, **_unguided(plan)}, {**preset.defaults, **_unguided(preset.defaults)})
        )
        if not same_levels(own, right):
            return f"has other noise levels: {own.spacing} spacing, where {preset.levels} is meant"
        return None


def _unguided(settings: Mapping[str, Any]) -> dict[str, float]:
    """Without the guidance scale, which a folder's labels may not allow."""
    return {"guidance_scale": 1.0} if "guidance_scale" in settings else {}


def recognised(names: Mapping[str, str], scheduler: str, unet: Mapping[str, Any]) -> Recognised | None:
    """The preset that a folder is for, if any.

    Args:
        names: what it is called, by where it says so: {"the folder's name": "sdxl-lightning-4step"}.
        scheduler: the class of its scheduler.
        unet: the config of its U-Net.
    """
    for where, name in names.items():
        for preset in PRESETS.values():
            if preset.known_by and re.search(preset.known_by, name, re.IGNORECASE):
                return Recognised(preset, f"{where}, {name}")
    if scheduler == LCM and unet.get("time_cond_proj_dim") is not None:
        return Recognised(PRESETS["lcm"], "LCMScheduler, and a U-Net that takes the guidance scale")
    return Recognised(PRESETS[CLASSES[scheduler]], scheduler) if scheduler in CLASSES else None

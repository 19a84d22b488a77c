"""Presets: what the families of distilled models are meant to be sampled with, by name."""

from fewstep.checks import named, one_of
from fewstep.diffusion.presets.preset import Family, Guided, Network, Preset
from fewstep.diffusion.presets.table import PRESETS
from fewstep.errors import ArgumentError

__all__ = ["PRESETS", "Family", "Guided", "Network", "Preset", "preset_named"]


def preset_named(argument: str, name: object, otherwise: str = "") -> Preset:
    """The preset of a name; ArgumentError, in the name of an argument, where there is none.

    otherwise: what else the argument may be, for the message.
    """
    if not one_of(name, PRESETS):
        raise ArgumentError(argument, name, f"{otherwise}a preset: {named(PRESETS, name)}")
    return PRESETS[str(name)]

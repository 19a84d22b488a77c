"""The presets under the name that users import them by; they are rows of `fewstep.diffusion.presets`."""

from fewstep.diffusion.presets import PRESETS, Family, Guided, Network, Preset

__all__ = ["PRESETS", "Family", "Guided", "Network", "Preset"]

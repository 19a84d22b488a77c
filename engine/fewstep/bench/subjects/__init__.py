"""What is measured: networks by name, each opened as a `Subject`."""

from fewstep.bench.subjects.folders import model_subject
from fewstep.bench.subjects.pixels import PRESETS, preset_subject
from fewstep.bench.subjects.registry import NETWORKS, Network, open_subject
from fewstep.bench.subjects.subject import Subject
from fewstep.bench.subjects.weights import diffusers_state, random_unet

__all__ = [
    "NETWORKS",
    "PRESETS",
    "Network",
    "Subject",
    "diffusers_state",
    "model_subject",
    "open_subject",
    "preset_subject",
    "random_unet",
]

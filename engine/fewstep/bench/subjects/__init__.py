"""What is measured: networks by name, each opened as a `Subject`."""

from fewstep.bench.subjects.own import Own, own_subject
from fewstep.bench.subjects.pixels import PRESETS
from fewstep.bench.subjects.registry import NETWORKS, TINY, Network, open_subject
from fewstep.bench.subjects.subject import Subject
from fewstep.bench.subjects.weights import random_unet

__all__ = [
    "NETWORKS",
    "PRESETS",
    "TINY",
    "Network",
    "Own",
    "Subject",
    "open_subject",
    "own_subject",
    "random_unet",
]

"""The networks that are measured, by name."""

from dataclasses import dataclass

from fewstep.bench.subjects.folders import model_subject
from fewstep.bench.subjects.pixels import PRESETS, preset_subject
from fewstep.bench.subjects.subject import RANDOM, TRAINED, Subject
from fewstep.models.bundled import names


@dataclass(frozen=True)
class Network:
    """What is known of a network before it is opened.

    Attributes:
        name: by which `open_subject` opens it.
        title: what it is.
        weights: "trained" or "random".
    """

    name: str
    title: str
    weights: str


NETWORKS: dict[str, Network] = {
    **{name: Network(name, name, TRAINED) for name in names()},
    **{name: Network(name, name, RANDOM) for name in PRESETS},
}


def open_subject(
    name: str, device: str = "cpu", max_batch: int = 16, size: int | None = None, steps: int | None = None
) -> Subject:
    """The network of that name.

    Args:
        name: of NETWORKS, or a model folder.
        device: where it runs.
        max_batch: samples at once, at most.
        size: height and width of a sample; the network's own unless given.
        steps: model calls that will be asked for, by which a student in the box is picked.

    Raises:
        ArgumentError, ModelError: a network that is not there, or cannot be measured.
    """
    if name in PRESETS:
        return preset_subject(name, device, max_batch)
    return model_subject(name, device, max_batch, steps)

"""Which picture shows what: the names of their files, without drawing them."""

import re
from collections.abc import Mapping, Sequence

from fewstep.bench.reports.facts import Network

OF_A_NETWORK = {
    "latency": "milliseconds an image against steps",
    "waterfall": "where the time of an image goes",
    "scaling": "images a second against the batch size",
}
OF_ALL = {
    "roofline": "operations a second against operations per byte, below the ceilings",
    "cold": "cold starts, split",
    "quality": "the quality of digits against milliseconds",
}


def file_names(networks: Sequence[Network], kind: str) -> dict[str, str]:
    """By the name of each network the file of a kind of picture, no two alike."""
    found: dict[str, str] = {}
    for place, network in enumerate(networks):
        name = slug(network.name) or f"network-{place + 1}"
        file = f"{kind}-{name}.png"
        found[network.name] = f"{kind}-{name}-{place + 1}.png" if file in found.values() else file
    return found


def captions(networks: Sequence[Network], pictures: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Of the pictures that there are, by network, and under "" for those of all: file and what it shows."""
    found: dict[str, dict[str, str]] = {"": {f"{kind}.png": told for kind, told in OF_ALL.items()}}
    for kind, told in OF_A_NETWORK.items():
        for network, file in file_names(networks, kind).items():
            found.setdefault(network, {})[file] = f"{network}: {told}"
    return {name: {file: told for file, told in each.items() if file in pictures} for name, each in found.items()}


def slug(name: str) -> str:
    """A name as part of a file's name."""
    return "-".join(re.findall("[a-z0-9]+", name.lower()))

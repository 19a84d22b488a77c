"""From the name of a layer in a LoRA file to the rows of our parameters that are its weight."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from torch import nn

from fewstep.models.layouts import diffusers, diffusers_condition, ldm
from fewstep.models.layouts.keys import Keys, Piece
from fewstep.models.lora.formats import TEXT_MODEL, Name
from fewstep.models.net.unet import UNet

_WEIGHT: Final = ".weight"


@dataclass(frozen=True)
class Rows:
    """Rows of one of our parameters, which are one layer's weight elsewhere."""

    parameter: str
    start: int
    piece: Piece  # its shape, and the order of its rows


def tables_of(module: nn.Module) -> tuple[Keys, ...]:
    """All names by which LoRA files may call what a network has.

    Its own, also within the one module that it may be wrapped around; for our U-Nets those of diffusers, and where text
    conditions them those of latent diffusion, which kohya's files for SDXL have.
    """
    own: Keys = {name: (Piece(name, tuple(tensor.shape)),) for name, tensor in module.named_parameters()}
    if not isinstance(module, UNet):
        return own, _inside(own)
    condition = module.config.condition
    if condition is None:
        return diffusers.naming(module.config).known_keys(module), own
    theirs = diffusers_condition.naming(module.config).known_keys(module)
    vector = ldm.VECTOR if condition.added_width is None else ldm.ADDED
    return theirs, *_renamed(theirs, ldm.modules_of(module.config.levels, module.config.layers, vector)), own


def _inside(keys: Keys) -> Keys:
    """The names within the one module that another is wrapped around; none where there are several in it."""
    if len({name.partition(".")[0] for name in keys}) != 1:
        return {}
    return {name: (replace(pieces[0], name=name.partition(".")[2]),) for name, pieces in keys.items()}


def _renamed(keys: Keys, modules: Mapping[str, str]) -> list[Keys]:
    """The names of another code base whose modules are called otherwise; where it has several for one, any of them."""
    names: dict[str, list[str]] = {}
    for there, here in modules.items():
        names.setdefault(here, []).append(there)

    def moved(name: str, choice: int) -> str | None:
        parts = name.split(".")
        for end in range(len(parts) - 1, 0, -1):
            if found := names.get(".".join(parts[:end])):
                return ".".join([found[choice], *parts[end:]]) if choice < len(found) else None
        return None

    tables: list[Keys] = []
    for choice in range(max(map(len, names.values()))):
        table: Keys = {}
        for parameter, pieces in keys.items():
            known = [replace(piece, name=name) for piece in pieces if (name := moved(piece.name, choice)) is not None]
            if len(known) == len(pieces):
                table[parameter] = tuple(known)
        tables.append(table)
    return tables


def text_table(module: nn.Module) -> Keys:
    """The names of a text encoder's parameters, without the `text_model.` that some versions have in front."""
    return {
        name: (Piece(name.removeprefix(TEXT_MODEL), tuple(tensor.shape)),) for name, tensor in module.named_parameters()
    }


class Places:
    """Finds the rows of a layer by its name, in tables of names.

    A name without dots, as kohya's are, is found where only one layer has it once its dots are underscores.
    """

    def __init__(self, tables: Iterable[Keys]) -> None:
        self._dotted: dict[str, Rows] = {}
        flat: dict[str, set[str]] = {}
        for table in tables:
            for layer, rows in _layers(table):
                self._dotted.setdefault(layer, rows)
                flat.setdefault(layer.replace(".", "_"), set()).add(layer)
        self._flat: Mapping[str, str] = {name: layers.pop() for name, layers in flat.items() if len(layers) == 1}

    def find(self, name: Name) -> Rows | None:
        """The rows of a layer; None where the network has no such layer."""
        layer = self._flat.get(name.layer) if name.flat else name.layer
        return None if layer is None else self._dotted.get(layer)


def _layers(table: Keys) -> Iterable[tuple[str, Rows]]:
    for parameter, pieces in table.items():
        start = 0
        for piece in pieces:
            if piece.name.endswith(_WEIGHT) and len(piece.shape) > 1:
                yield piece.name.removesuffix(_WEIGHT), Rows(parameter, start, piece)
            start += piece.shape[0] if piece.shape else 0

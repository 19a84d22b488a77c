"""Adapters of a network: LoRA files merged into its weights where they lie, several at once, and taken out again."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from fewstep.checks import named, real
from fewstep.errors import ArgumentError, ModelError, some_of
from fewstep.fields import shown
from fewstep.memory import check_memory
from fewstep.models.layouts.keys import Keys
from fewstep.models.lora.formats import NAMED, NETWORK
from fewstep.models.lora.names import Places, Rows, tables_of, text_table
from fewstep.models.lora.read import Lora, Update, read_lora
from fewstep.models.lora.regions import Balanced, Factors, Region, as_columns, joined

MAX_NAME: Final = 200

Key = tuple[str, str, int]  # the part, our parameter, and the first of the rows that are changed together
Recipe = tuple[tuple[str, float], ...]  # adapters and their weights
Sharers = Callable[[str], Sequence[tuple[int, Tensor]]]  # of one of our parameters
NOTHING: Final[Mapping[str, nn.Module]] = {}


@dataclass(frozen=True)
class Loaded:
    """What a LoRA file was found to be.

    Attributes:
        name: of the adapter.
        weight: it was merged with.
        layers: of each network of ours, those that it updates: {"unet": 128}.
        ranks: the smallest and the largest of the updates' ranks.
        unused: the layers in parts of the file that were applied to nothing: {"text_encoder": 72}.
    """

    name: str
    weight: float
    layers: Mapping[str, int]
    ranks: tuple[int, int]
    unused: Mapping[str, int]


@dataclass
class _Adapter:
    weight: float
    factors: dict[Key, Balanced] = field(default_factory=dict)


class Adapters:
    """The LoRA adapters of a network, merged in place.

        W = W_0 + sum over adapters of weight * (alpha / r) * up @ down      (Hu et al. 2021, LoRA, equation 3)

    No tensor moves, so a captured graph goes on and gives what the new weights give. W_0 is copied beside each layer
    that an adapter changes, for as long as one does, so that what comes back is W_0 bit for bit; that takes as many
    bytes as those layers (`bytes`). Every change starts from W_0: however often weights are set, nothing adds up.

    What somebody else has written into a merged weight since (a load_state_dict) is that weight's new W_0. Weights that
    were moved since (`.to()`) keep theirs, which moves with them at the next change.

    Args:
        module: the network; its own weights change, and with them those of whoever shares its tensors.
        tables: by which names the file may call its layers; those of `names.tables_of` unless given.
        text_encoders: networks for the parts "text_encoder" and "text_encoder_2" of a file, which else go nowhere.
        sharers: of a parameter of `module`, the tensors of others over its memory, each with the first of its rows
            there. What is written through them counts as written, and they count what is written here.

    Nothing here waits or locks: the caller sees to it that nobody runs the network meanwhile.
    """

    def __init__(
        self,
        module: nn.Module,
        *tables: Keys,
        text_encoders: Mapping[str, nn.Module] = NOTHING,
        sharers: Sharers | None = None,
    ) -> None:
        self._networks: dict[str, nn.Module] = {NETWORK: module, **text_encoders}
        by_part = {part: (text_table(network),) for part, network in text_encoders.items()}
        named_by: dict[str, Sequence[Keys]] = {NETWORK: tables or tables_of(module), **by_part}
        self._places = {part: Places(own) for part, own in named_by.items()}
        self._cuts = {part: _cuts(own) for part, own in named_by.items()}
        self._owners: dict[tuple[str, str], nn.Module] = {}
        self._adapters: dict[str, _Adapter] = {}
        self._regions: dict[Key, Region] = {}
        self._merged: dict[Key, Recipe] = {}
        self._sharers = sharers
        self._seen: dict[Key, tuple[int, list[int]]] = {}  # address and versions when it was last written here

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each adapter by name, in the order in which they were loaded."""
        return {name: adapter.weight for name, adapter in self._adapters.items()}

    @property
    def bytes(self) -> int:
        """What the copies of changed weights take."""
        return sum(region.bytes for region in self._regions.values())

    def load(
        self, source: str | os.PathLike[str] | Mapping[str, Tensor] | Lora, name: str | None = None, weight: float = 1.0
    ) -> Loaded:
        """Add an adapter. Where this fails, nothing has changed.

        Args:
            source: as for `read_lora`.
            name: of the adapter; that of the file unless given.
            weight: it is merged with. At 0 it is kept for later, and no weight is touched.

        Raises:
            ModelError: as `read_lora`; or a file for another model, naming the first five layers that this network
                lacks, or the first whose shape is another; or an update that is too large for the weights' dtype.
            ArgumentError: a name that is taken, a weight that is no finite number, copies that do not fit into memory.
        """
        lora = read_lora(source)
        name, weight = self._new_name(lora.name if name is None else name), _weight("weight", weight)
        there = {part: updates for part, updates in lora.parts.items() if part in self._networks}
        unused = {part: len(updates) for part, updates in lora.parts.items() if part not in self._networks}
        if not there:
            parts = ", ".join(f"{part} ({count} layers)" for part, count in unused.items())
            raise ModelError(f"{lora.where}: has nothing for {' or '.join(self._networks)}; it is for {parts}")
        adapter = _Adapter(weight)
        for part, updates in there.items():
            for update, rows in self._matched(part, updates, lora.where):
                self._add(adapter, part, update, rows, lora.where)
        self._change({**self._adapters, name: adapter}, lora.where)
        ranks = [len(update.down) for updates in there.values() for update in updates]
        layers = {part: len(updates) for part, updates in there.items()}
        return Loaded(name, weight, layers, (min(ranks), max(ranks)), unused)

    def set(self, weights: Mapping[str, float]) -> None:
        """Give adapters other weights, all in one change: {"a": 0, "b": 1} swaps b in for a. Others keep theirs.

        Raises:
            ArgumentError: an unknown name, a weight that is no finite number.
        """
        if not isinstance(weights, Mapping):
            raise ArgumentError("weights", weights, 'a weight for each name, such as {"style": 0.8}')
        adapters = dict(self._adapters)
        for name, weight in weights.items():
            adapters[name] = _Adapter(_weight(f"weights[{name!r}]", weight), self._known(name).factors)
        self._change(adapters, "the adapters together")

    def unload(self, name: str | None = None) -> None:
        """Take an adapter out, or all of them; with the last, every weight is what it was, bit for bit.

        Raises:
            ArgumentError: an unknown name.
        """
        if name is not None:
            self._known(name)
        left = {other: adapter for other, adapter in self._adapters.items() if name is not None and other != name}
        self._change(left, "the adapters together")

    def _known(self, name: str) -> _Adapter:
        if not isinstance(name, str) or name not in self._adapters:
            allowed = named(self._adapters, name) if self._adapters else "nothing: no adapter is loaded"
            raise ArgumentError("name", name, allowed)
        return self._adapters[name]

    def _new_name(self, name: str) -> str:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise ArgumentError("name", name, f"a text of 1 to {MAX_NAME} characters")
        if name in self._adapters:
            taken = ", ".join(map(repr, self._adapters))
            raise ArgumentError("name", name, f"a name that no adapter has; there are: {taken}")
        return name

    def _matched(self, part: str, updates: Iterable[Update], where: str) -> list[tuple[Update, Rows]]:
        """Each update of a part and the rows it belongs to, in their shapes."""
        matched, lacking = [], []
        for update in updates:
            rows = self._places[part].find(update.layer)
            if rows is None:
                lacking.append(shown(update.layer.layer))
            else:
                matched.append((update, rows))
        if lacking:
            count = f"{len(lacking):,} of its {len(lacking) + len(matched):,} layers"
            raise ModelError(f"{where}: is for another model: this one lacks {count}: {some_of(lacking, NAMED)}")
        for update, rows in matched:
            shape, down, up = rows.piece.shape, tuple(update.down.shape), tuple(update.up.shape)
            own = shape[1:] + (1,) * (len(down) - len(shape))
            if up[0] != shape[0] or (down[1:] != own and down[1:] + (1,) * (len(shape) - len(down)) != own):
                sizes = f"{list(up)} x {list(down)}"
                raise ModelError(f"{where}: {shown(update.tensor)}: is {sizes}; the model's layer is {list(shape)}")
        return matched

    def _add(self, adapter: _Adapter, part: str, update: Update, rows: Rows, where: str) -> None:
        """Enter an update: its rows in our order, cut where names begin that are for less than the parameter."""
        parameter = self._parameter(part, rows.parameter)
        down = (update.down * update.scale).reshape(-1, *parameter.shape[1:]).to(parameter.device)
        up = rows.piece.ordered_rows(update.up).to(parameter.device)
        end = rows.start + len(up)
        cuts = [cut for cut in self._cuts[part][rows.parameter] if rows.start <= cut < end]
        for start, stop in zip(cuts, [*cuts[1:], end], strict=True):
            key = (part, rows.parameter, start)
            if key in adapter.factors:
                raise ModelError(f"{where}: {shown(update.tensor)}: updates what another of its tensors updates")
            adapter.factors[key] = Balanced.of(up[start - rows.start : stop - rows.start], down)

    @torch.inference_mode()
    def _change(self, adapters: dict[str, _Adapter], where: str) -> None:
        """Have these adapters merged and no others; all is made ready before the first weight is written."""
        self._look_again()
        wanted: dict[Key, list[tuple[str, float]]] = {key: [] for key in self._merged}
        for name, adapter in adapters.items():
            if adapter.weight:
                for key in adapter.factors:
                    wanted.setdefault(key, []).append((name, adapter.weight))
        recipes: dict[Key, Recipe] = {key: tuple(own) for key, own in wanted.items()}
        changed = {key: recipe for key, recipe in recipes.items() if recipe != self._merged.get(key, ())}
        regions = {key: self._regions.get(key) or self._region(key) for key in changed}
        after = {key: _factors(key, regions[key], recipe, adapters, where) for key, recipe in changed.items()}
        self._allocate(regions)
        try:
            for key, region in regions.items():
                region.write(after[key])
        except BaseException:
            for key, region in regions.items():
                region.write(_factors(key, region, self._merged.get(key, ()), self._adapters, where))
            self._settle(regions, {key: self._merged.get(key, ()) for key in changed})
            raise
        self._settle(regions, changed)
        self._adapters = adapters

    def _settle(self, regions: Mapping[Key, Region], recipes: Mapping[Key, Recipe]) -> None:
        """Remember what is merged now, and give back the copies of what is as it was."""
        for key, recipe in recipes.items():
            if recipe:
                self._regions[key], self._merged[key] = regions[key], recipe
            else:
                self._regions.pop(key, None)
                self._merged.pop(key, None)
            for other in self._others(key):
                if not other.is_inference():
                    torch.autograd.graph.increment_version(other)
        self._seen = {key: (region.parameter.data_ptr(), self._versions(key)) for key, region in self._regions.items()}

    def _look_again(self) -> None:
        """Weights that somebody else has written or exchanged since are as they were meant to be: nothing is merged.

        Those that were moved, by `.to()` say, are what they were, elsewhere.
        """
        for key, region in [*self._regions.items()]:
            now, (address, versions) = self._parameter(*key[:2]), self._seen[key]
            if now.is_meta:
                raise ArgumentError("lora", f"{key[1]} on the meta device", "weights in memory, not offloaded ones")
            if now is not region.parameter or self._versions(key) != versions:
                del self._regions[key], self._merged[key]
            elif now.data_ptr() != address:
                region.follow()

    def _parameter(self, part: str, name: str) -> nn.Parameter:
        """As it is now: it may have been exchanged. Its module is looked up once, which costs more than all else."""
        if (part, name) not in self._owners:
            self._owners[part, name] = self._networks[part].get_submodule(name.rpartition(".")[0])
        found: nn.Parameter = getattr(self._owners[part, name], name.rpartition(".")[2])
        return found

    def _others(self, key: Key) -> list[Tensor]:
        """The tensors of others over the rows of a key."""
        part, parameter, start = key
        if self._sharers is None or part != NETWORK:
            return []
        stop = self._stop(key)
        shared = self._sharers(parameter)
        return [other for first, other in shared if first < stop and start < first + len(other)]

    def _versions(self, key: Key) -> list[int]:
        """How often its rows were written to; our parameter, which may have other rows, tells it where it is alone."""
        return [_version(tensor) for tensor in self._others(key) or [self._parameter(*key[:2])]]

    def _stop(self, key: Key) -> int:
        """The row behind the last of a key."""
        part, parameter, start = key
        cuts = [*self._cuts[part][parameter], len(self._parameter(part, parameter))]
        return cuts[cuts.index(start) + 1]

    def _region(self, key: Key) -> Region:
        part, parameter, start = key
        return Region(parameter, self._parameter(part, parameter), start, self._stop(key))

    def _allocate(self, regions: Mapping[Key, Region]) -> None:
        new = [region for region in regions.values() if region.base is None]
        on_cpu = sum(region.bytes for region in new if region.rows.device.type == "cpu")
        check_memory("lora", f"{len(new)} weights to change", on_cpu, "a copy of them, which gives them back,")
        for region in new:
            region.allocate()


def _factors(key: Key, region: Region, recipe: Recipe, adapters: Mapping[str, _Adapter], where: str) -> Factors | None:
    """The one product that a recipe adds to a region; None where it adds nothing."""
    if not recipe:
        return None
    dtype = region.rows.dtype
    parts = [adapters[name].factors[key] for name, _ in recipe]
    if not all(part.fits(weight, dtype) for part, (_, weight) in zip(parts, recipe, strict=True)):
        kind = str(dtype).removeprefix("torch.")
        raise ModelError(f"{where}: the update of {shown(region.name)} is too large for weights in {kind}")
    factors = joined(parts, [weight for _, weight in recipe], region.rows.device, dtype)
    return Factors(factors.up, as_columns(region.parameter, factors.down))


def _cuts(tables: Iterable[Keys]) -> dict[str, list[int]]:
    """Of each parameter the rows at which a name begins, in any of the tables."""
    cuts: dict[str, set[int]] = {}
    for table in tables:
        for parameter, pieces in table.items():
            start, own = 0, cuts.setdefault(parameter, set())
            for piece in pieces:
                own.add(start)
                start += piece.shape[0] if piece.shape else 0
    return {parameter: sorted(own) for parameter, own in cuts.items()}


def _version(parameter: Tensor) -> int:
    """How often a parameter was written to, as far as torch counts that."""
    return 0 if parameter.is_inference() else parameter._version


def _weight(argument: str, value: object) -> float:
    found = real(value)
    if found is None or not math.isfinite(found):
        raise ArgumentError(argument, value, "a finite number, such as 0.8")
    return found

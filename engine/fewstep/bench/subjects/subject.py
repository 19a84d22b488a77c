"""What is measured: one network, as the engine holds it and as diffusers does."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.engine import Engine
from fewstep.request.conditions import Words
from fewstep.run.inputs import Inputs
from fewstep.run.modules import view_of

TRAINED, RANDOM, OWN = "trained", "random", "own"


@dataclass(frozen=True)
class Subject:
    """A network and all that a sampling loop must know of it.

    Attributes:
        engine: holds the network, its schedule, what it predicts and its labels; runs on torch, in float32.
        title: what it is, and whose weights they are.
        source: how to make it again in another process: `open_subject(**source, device=..., max_batch=...)`.
        weights: "trained", "random", or "own" for those of a network that its user made.
        theirs: diffusers' module with the same weights, or None.
        lacks_diffusers: why there is none; "" if there is one.
        condition: what is given for one sample beside labels, by the names of the network's call: context [L, W],
            pooled [P], ...; none for {}.
    """

    engine: Engine
    title: str
    source: Mapping[str, object]
    weights: str = TRAINED
    theirs: Any = None
    lacks_diffusers: str = ""
    condition: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def module(self) -> nn.Module:
        """The network for other loops than the engine's: a view, since what is hooked into it changes no program."""
        return view_of(self.engine.module)

    def labels(self, batch: int) -> list[float] | None:
        """Labels spread over what the model takes, one per sample; None for a model without."""
        return self.engine.model.conditions.spread(batch)

    def inputs(self, batch: int) -> dict[str, Tensor]:
        """What the network takes beside x and t, under its own names, [batch, ...] each: those labels, the default
        scale of a guidance that is an input, and the given condition.
        """
        model, device = self.engine.model, self.engine.device
        rows = model.conditions.rows(Words(labels=self.labels(batch)), batch, guided=False)
        given = model.guidance.condition([None] * batch, rows.condition)
        called = {"labels": Inputs.of(self.engine.module).labels}
        made = {called.get(name, name): rows.to(device) for name, rows in given.items()}
        return _in_dtype(made, self.engine.dtype) | self._rows(batch, self.engine.dtype)

    def asked(self, batch: int) -> dict[str, Any]:
        """The same as arguments of `Engine.sample`, each only where there is something to say."""
        labels, rows = self.labels(batch), self._rows(batch, self.engine.dtype)
        return ({} if labels is None else {"labels": labels}) | ({"condition": rows} if rows else {})

    def their_arguments(self, batch: int, dtype: torch.dtype) -> dict[str, Any]:
        """What diffusers' module takes beside x and t, under its names."""
        rows, arguments = self._rows(batch, dtype), dict[str, Any]()
        labels = self.labels(batch)
        if labels is not None:
            arguments["class_labels"] = torch.tensor(labels, device=self.engine.device)
        if "context" in rows:
            arguments["encoder_hidden_states"] = rows["context"]
        if "pooled" in rows:
            arguments["added_cond_kwargs"] = {"text_embeds": rows["pooled"], "time_ids": rows["sizes"]}
        return arguments

    def on(self, backend: str, dtype: torch.dtype) -> "Subject":
        """The same network as a backend of the engine executes it, in a dtype, and diffusers' own in that.

        Raises:
            ArgumentError: a backend that does not run on this device.
        """
        engine = self.engine
        there: dict[str, Any] = {"device": engine.device, "dtype": dtype}
        there |= {"max_batch": engine.max_batch, "backend": backend}
        other = None if self.theirs is None or dtype == engine.dtype else copy.deepcopy(self.theirs)
        theirs = self.theirs if other is None else nn.Module.to(other, dtype)
        return replace(self, engine=Engine(engine.model, **there), theirs=theirs)

    def _rows(self, batch: int, dtype: torch.dtype) -> dict[str, Tensor]:
        return _in_dtype({name: each.expand(batch, *each.shape) for name, each in self.condition.items()}, dtype)


def _in_dtype(rows: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: each.to(dtype) if each.is_floating_point() else each for name, each in rows.items()}

"""What `serve run fewstep.serve.ray:build_app` takes, by name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fewstep.checks import nearest
from fewstep.serve.family import Family
from fewstep.serve.limits import Limits
from fewstep.serve.ray.dtypes import dtype_of


def _listed(value: Any) -> Any:
    """A command line says several models with commas between them."""
    return [each.strip() for each in value.split(",")] if isinstance(value, str) else value


def _parsed(value: Any) -> Any:
    """A command line says a mapping in JSON."""
    return json.loads(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Opening:
    """What a replica opens, in words that go to another process.

    Attributes:
        models: served names, and the model of each, as `Family.open` takes it.
        options: of `Engine.from_pretrained`; a dtype by its name.
        loras: files of adapters by their names, by served name.
        warmup: a file of `Engine.manifest`, or none.
    """

    models: Mapping[str, str]
    options: Mapping[str, Any]
    loras: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    warmup: str | None = None

    def families(self) -> dict[str, Family]:
        """All of it, open and ready."""
        options = {**self.options, "dtype": dtype_of(self.options.get("dtype"))}
        opened = {
            name: Family.open(name, model, loras=self.loras.get(name), **options) for name, model in self.models.items()
        }
        if self.warmup is not None:
            for member in [member for family in opened.values() for member in family.members]:
                member.engine.warm_up(self.warmup)
        return opened


class Arguments(BaseModel):
    """A cluster's arguments; the words of a command line, such as replicas=2, are read as what they are to be.

    Attributes:
        model: what is served: names of models in the box, folders, or NAME=FOLDER; on a command line with commas
            between. Every node finds the folders at the same place.
        dtype: of the networks, such as "bfloat16"; as their files have it unless given.
        backend, batch_invariant, max_batch, allow_pickle: as for `Engine.from_pretrained`.
        loras: files of adapters by the names that requests have for them, by served name; on a command line in JSON.
        warmup: a file of `Engine.manifest`: kinds of requests that a replica is made ready for before it answers.
        limits: of each replica, as of `Limits`; on a command line in JSON.
        replicas: how many engines there are, and the least of them where `max_replicas` says more.
        max_replicas: up to which number of engines the load may raise them; they stay as they are unless given.
        target_ongoing_requests: of a replica, that scaling aims at; the number of slots unless given.
        max_ongoing_requests: that one replica holds before further ones go to the next; twice the slots unless given.
        max_queued_requests: that wait in front of the replicas; more are refused with 429.
        retry_after_s: what a refusal says in Retry-After.
        num_gpus: of a replica, which runs on a CPU where it is 0.
        num_cpus: of a replica.
        ingresses: how many actors take requests in and look for a replica.
        ingress_num_cpus: of each of those, which need little.
        retries: how often a request whose replica died before it answered goes to another.
        health_check_period_s, health_check_timeout_s: of the replicas.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: Annotated[list[str], BeforeValidator(_listed)] = Field(min_length=1)
    dtype: str | None = None
    backend: str = "auto"
    batch_invariant: bool = False
    max_batch: int = Field(16, ge=1)
    allow_pickle: bool = False
    loras: Annotated[dict[str, dict[str, str]], BeforeValidator(_parsed)] = Field(default_factory=dict)
    warmup: str | None = None
    limits: Annotated[Limits, BeforeValidator(_parsed)] = Field(default_factory=Limits)
    replicas: int = Field(1, ge=1)
    max_replicas: int | None = Field(None, ge=1)
    target_ongoing_requests: float | None = Field(None, gt=0)
    max_ongoing_requests: int | None = Field(None, ge=1)
    max_queued_requests: int = Field(64, ge=0)
    retry_after_s: float = Field(1.0, ge=0)
    num_gpus: float = Field(0, ge=0)
    num_cpus: float = Field(1, gt=0)
    ingresses: int = Field(1, ge=1)
    ingress_num_cpus: float = Field(0, ge=0)
    retries: int = Field(3, ge=0)
    health_check_period_s: float = Field(5.0, gt=0)
    health_check_timeout_s: float = Field(30.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        for name in given if isinstance(given, dict) else ():
            if name not in cls.model_fields:
                near = nearest(cls.model_fields, name)
                raise ValueError(
                    f"{name} is no argument of build_app; "
                    + (f"did you mean {near}?" if near else f"there are {', '.join(cls.model_fields)}")
                )
        return given

    @model_validator(mode="after")
    def _agree(self) -> "Arguments":
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas: got {self.max_replicas}; allowed: at least replicas, {self.replicas}")
        names = list(self.models)
        if len(set(names)) != len(self.model):
            raise ValueError(f"model: got {', '.join(self.model)}; allowed: names that differ")
        for name in self.loras:
            if name not in names:
                raise ValueError(f"loras: got {name}; allowed: adapters of {', '.join(names)}")
        return self

    @property
    def models(self) -> dict[str, str]:
        """Served names, and the model of each."""
        split = [each.partition("=") for each in self.model]
        return {name: folder if equals else name for name, equals, folder in split}

    @property
    def opening(self) -> "Opening":
        """What every replica opens."""
        return Opening(self.models, self.engine_options, self.loras, self.warmup)

    @property
    def most_replicas(self) -> int:
        """Of engines, ever."""
        return self.max_replicas or self.replicas

    @property
    def engine_options(self) -> dict[str, Any]:
        """Of `Engine.from_pretrained`, in words that go to another process."""
        return {
            "device": "cuda" if self.num_gpus else "cpu",
            "dtype": self.dtype,
            "backend": self.backend,
            "batch_invariant": self.batch_invariant,
            "max_batch": self.max_batch,
            "allow_pickle": self.allow_pickle,
        }

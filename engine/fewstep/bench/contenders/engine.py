"""fewstep itself, as its users call it."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fewstep.bench.contenders.case import Case, normals, plan_of, stacked
from fewstep.bench.contenders.contender import Contender
from fewstep.bench.contenders.racer import Racer
from fewstep.bench.subjects import Subject
from fewstep.engine import Engine
from fewstep.errors import BackendWarning


class EngineRacer(Racer):
    """`Engine.sample` on a backend, with noise by seed."""

    def images(self, case: Case, seed: int) -> Tensor:
        """From torch's noise, given to the engine row by row."""
        plan = plan_of(self.subject, case)
        noise = stacked(plan, normals(self.subject, case, seed))
        return self._sample(case, noise=noise, seeds=seed)

    def own_images(self, case: Case, seed: int) -> Tensor:
        """From its own noise of the seeds seed, seed + 1, ..."""
        return self._sample(case, seeds=seed)

    def same_images(self, case: Case, seed: int) -> Tensor:
        """What must have the bits of `own_images`: the same request again."""
        return self.own_images(case, seed)

    def run(self, case: Case) -> Callable[[int], Tensor]:
        """From its own noise."""
        engine, plan, asked = self.subject.engine, plan_of(self.subject, case), self.subject.asked(case.batch)
        return lambda seed: engine.sample(case.batch, plan=plan, seeds=seed, **asked).images

    def prepare(self, case: Case) -> None:
        """Also see who runs its network: absent if it is another than was asked for."""
        if self.absent(case) or case.batch in self.ready:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BackendWarning)  # its row says the same
            super().prepare(case)
        stats = self.subject.engine.stats()["backend"]
        if stats["name"] != self.contender.backend:
            reasons = [str(call["why"]) for call in stats["calls"] if "why" in call]
            self.lacks = reasons[-1] if reasons else f"{stats['name']} runs the network in its place"

    def figures(self) -> dict[str, float]:
        """The bytes of its graphs' pool, where it captures."""
        stats = self.subject.engine.stats()
        return {"graph_bytes": stats["bytes"]} if "bytes" in stats else {}

    def _sample(self, case: Case, **told: object) -> Tensor:
        engine, plan = self.subject.engine, plan_of(self.subject, case)
        images: Tensor = engine.sample(case.batch, plan=plan, **self.subject.asked(case.batch), **told).images  # type: ignore[arg-type]
        return images.to(torch.float32)


class ByCalls(EngineRacer):
    """`Engine.sample` with every step called from Python, whose bits a graph has to give as well."""

    def __init__(self, contender: Contender, subject: Subject, lacks: str = "") -> None:
        self.replayed, engine = subject, subject.engine
        by_calls = Engine(
            engine.model,
            device=engine.device,
            dtype=engine.dtype,
            runner="eager",
            max_batch=engine.max_batch,
            backend=contender.backend,  # type: ignore[arg-type] # a name in BACKENDS
        )
        super().__init__(contender, replace(subject, engine=by_calls), lacks)

    def same_images(self, case: Case, seed: int) -> Tensor:
        """The same request of the engine as it comes, on a GPU by graphs."""
        return EngineRacer(self.contender, self.replayed).own_images(case, seed)

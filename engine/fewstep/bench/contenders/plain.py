"""Networks in plain torch: the eager reference, and the network's calls alone."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.bench import reference
from fewstep.bench.contenders.case import Case, in_turn, normals, plan_of
from fewstep.bench.contenders.racer import Racer
from fewstep.bench.reference import Noise
from fewstep.bench.subjects import Subject
from fewstep.run.inputs import SECOND_TIME, Inputs


def reference_images(subject: Subject, case: Case, noise: Noise) -> Tensor:
    """The reference's images on given noise."""
    return images_of(subject, subject.module, case, noise)


def images_of(subject: Subject, network: Callable[..., Any], case: Case, noise: Noise) -> Tensor:
    """The reference's loop around a network that is called as the subject's module is: network(x, t, **inputs)."""
    told = subject.inputs(case.batch)
    second = Inputs.of(subject.engine.module).second_time

    def call(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        # In the dtype of x, which is float32 whatever the network computes in: a loop in bfloat16 rounds its levels.
        named = told | ({SECOND_TIME: r} if second else {})
        answer: Tensor = network(x.to(subject.engine.dtype), t, **named)
        return answer.to(x)

    return reference.sample(plan_of(subject, case), call, noise)


class Eager(Racer):
    """The plan interpreted in plain torch, the network as it is: the reference of all images, and of all ratios."""

    @property
    def network(self) -> Callable[..., Any]:
        """What is called: a contender that puts another network in this place inherits all else."""
        return self.subject.module

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The module."""
        return (self.subject.module,)

    def images(self, case: Case, seed: int) -> Tensor:
        """From torch's noise."""
        return images_of(self.subject, self.network, case, in_turn(normals(self.subject, case, seed)))

    def run(self, case: Case) -> Callable[[int], object]:
        """The same."""
        return partial(self.images, case)


class Bare(Racer):
    """The network's calls and nothing else: what no loop can beat. It draws nothing, so it has no images."""

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The module."""
        return (self.subject.module,)

    def images(self, case: Case, seed: int) -> Tensor:
        """There are none."""
        raise NotImplementedError

    def run(self, case: Case) -> Callable[[int], object]:
        """As many calls as the case has, on a fixed input."""
        subject, plan = self.subject, plan_of(self.subject, case)
        x = normals(subject, case, 0)().to(subject.engine.dtype)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        t = torch.full((case.batch,), float(plan.column("t")[len(plan) // 2]), device=x.device)
        named = subject.inputs(case.batch)
        if Inputs.of(subject.engine.module).second_time:
            named = named | {SECOND_TIME: t}

        def run(seed: int) -> None:
            del seed
            with torch.no_grad():
                for _ in range(case.steps):
                    subject.module(x, t, **named)

        return run

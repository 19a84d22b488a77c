"""A network exported and converted for another runtime of a CPU, its inputs bound once."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from fewstep.bench.contenders.case import Case, normals
from fewstep.bench.contenders.contender import Contender
from fewstep.bench.contenders.plain import Eager
from fewstep.bench.contenders.racer import Absent
from fewstep.bench.contenders.standin import Program, Standin, beside, by_position, no_room, taken
from fewstep.bench.subjects import Subject
from fewstep.errors import reason_of
from fewstep.run.backends.backend import UnreadyError
from fewstep.run.backends.export import ALONE, in_float32
from fewstep.run.inputs import SECOND_TIME


class Bound:
    """A converted network whose tensors lie where they are. Its answer holds until the next call.

    Args:
        inputs: which the runtime reads.
        changing: the places of those that differ from call to call.
        infer: runs it.
        answer: which the runtime writes.
    """

    def __init__(
        self, inputs: Sequence[Tensor], changing: Sequence[int], infer: Callable[[], object], answer: Tensor
    ) -> None:
        self.inputs, self.changing, self.infer, self.answer = inputs, changing, infer, answer

    def __call__(self, *given: Tensor) -> Tensor:
        """The network's answer, in float32."""
        for place in self.changing:
            self.inputs[place].copy_(given[place])
        self.infer()
        return self.answer


class Converted(Eager):
    """The reference's loop around another runtime of a CPU, which has diffusers' module where there is one, else ours.

    Attributes:
        packages: that it needs.
        extra: that installs them.
        copies: of the weights that it holds, at least.
    """

    packages: tuple[str, ...]
    extra: str
    copies = 1

    def __init__(self, contender: Contender, subject: Subject, lacks: str = "") -> None:
        super().__init__(contender, subject, lacks or self.refusal(subject))
        self.programs: dict[int, Program] = {}

    def refusal(self, subject: Subject) -> str:
        """Why it cannot take part, whatever the network; "" where it can."""
        if subject.engine.device.type != "cpu":
            return "runs on a CPU"
        there = all(find_spec(name) for name in self.packages)
        return "" if there else f"not installed: pip install 'fewstep[{self.extra}]'"

    @cached_property
    def network(self) -> nn.Module:
        """What the loop calls."""
        return Standin(self.subject, lambda x, *rest: self.programs[len(x)](x, *rest))

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The same."""
        return (self.network,)

    def prepare(self, case: Case) -> None:
        """Export and convert for its batch size; absent with the runtime's reason where that fails."""
        if self.absent(case) or case.batch in self.ready:
            return
        if not self.ready:
            self.lacks = no_room(self.subject, f"{self.contender.kind} with the weights in it", self.copies)
        super().prepare(case)

    def run(self, case: Case) -> Callable[[int], object]:
        """The same loop; the first run of a batch size converts for it."""
        run = super().run(case)

        def converted(seed: int) -> object:
            self._convert(case)
            return run(seed)

        return converted

    def images(self, case: Case, seed: int) -> Tensor:
        """From torch's noise."""
        self._convert(case)
        return super().images(case, seed)

    @abstractmethod
    def convert(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Callable[[], object], Tensor]:
        """What runs the network on these tensors, which stay where they are, and the answer that it writes."""

    def _convert(self, case: Case) -> None:
        if case.batch in self.programs:
            return
        rest = beside(self.subject, case.batch)
        x = normals(self.subject, case, 0)()
        t = torch.ones(case.batch)
        inputs = tuple(each.float() if each.is_floating_point() else each for each in (x, t, *rest.values()))
        inputs = tuple(each.clone(memory_format=torch.contiguous_format) for each in inputs)
        try:
            with ALONE, torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network = by_position(self.subject, in_float32(taken(self.subject))).eval()
                infer, answer = self.convert(network, inputs)
        except UnreadyError as why:
            raise Absent(str(why)) from why
        except Exception as error:  # of the export, of the conversion, or of the runtime
            raise Absent(f"{self.contender.kind}: {type(error).__name__}: {reason_of(error)}") from error
        changing = [0, 1, *(2 + place for place, path in enumerate(rest) if path == (SECOND_TIME,))]
        self.programs[case.batch] = Bound(inputs, changing, infer, answer)

"""What stands in the network's place: diffusers' module where there is one, else ours, as another program runs it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.bench.subjects import Subject
from fewstep.memory import gib, why_not
from fewstep.run.backends.call import prediction_of
from fewstep.run.inputs import SECOND_TIME, Inputs
from fewstep.run.modules import view_of

Path = tuple[str, ...]  # of an argument: its name, and within a dict that is an argument the key
Program = Callable[..., Tensor]  # (x, t, *rest) -> m, the rest in the order of `beside`


class ByPosition(nn.Module):
    """A network that is called with tensors by position alone.

    Args:
        module: the network.
        paths: of its arguments beside x and t.
    """

    def __init__(self, module: nn.Module, paths: Sequence[Path]) -> None:
        super().__init__()
        self.module, self.paths = module, tuple(paths)

    def forward(self, x: Tensor, t: Tensor, *rest: Tensor) -> Tensor:
        """Its answer as a tensor."""
        named: dict[str, Any] = {}
        for path, tensor in zip(self.paths, rest, strict=True):
            if len(path) == 1:
                named[path[0]] = tensor
            else:
                named.setdefault(path[0], {})[path[1]] = tensor
        answer: Tensor = prediction_of(self.module(x, t, **named))
        return answer


class Standin(nn.Module):
    """Called as a subject's module is, and answered by a program.

    Args:
        subject: the network.
        program: answers, for any number of samples.
    """

    def __init__(self, subject: Subject, program: Program) -> None:
        super().__init__()
        self.subject, self.program = subject, program
        self._rest: dict[int, dict[Path, Tensor]] = {}

    def forward(self, x: Tensor, t: Tensor, **named: Tensor) -> Tensor:
        """The prediction; of what is named the second time alone is read, all else being the subject's own."""
        if len(x) not in self._rest:
            self._rest[len(x)] = beside(self.subject, len(x))
        rest = self._rest[len(x)]
        if (SECOND_TIME,) in rest:
            rest = rest | {(SECOND_TIME,): named[SECOND_TIME]}
        return self.program(x, t, *rest.values())


def taken(subject: Subject) -> nn.Module:
    """diffusers' module where there is one, else ours: a view, so that what is compiled in it changes no other's."""
    return view_of(subject.engine.module if subject.theirs is None else subject.theirs)


def by_position(subject: Subject, module: nn.Module) -> ByPosition:
    """What `taken` gave, or a copy of it, called by position."""
    return ByPosition(module, tuple(beside(subject, 1)))


def beside(subject: Subject, batch: int) -> dict[Path, Tensor]:
    """What `taken` takes beside x and t, [batch, ...] each; the second time, which no subject knows, as zeros."""
    if subject.theirs is not None:
        return dict(_flat(subject.their_arguments(batch, subject.engine.dtype)))
    second = Inputs.of(subject.engine.module).second_time
    zeros = {SECOND_TIME: torch.zeros(batch, device=subject.engine.device)} if second else {}
    return dict(_flat(subject.inputs(batch) | zeros))


def _flat(arguments: Mapping[str, Any]) -> list[tuple[Path, Tensor]]:
    found: list[tuple[Path, Tensor]] = []
    for name, given in arguments.items():
        if isinstance(given, Mapping):
            found += [((name, key), tensor) for key, tensor in given.items()]
        else:
            found.append(((name,), given))
    return found


def no_room(subject: Subject, what: str, copies: float) -> str:
    """Why what holds so many further copies of the weights does not fit; "" where it may."""
    weights = [*subject.engine.module.parameters(), *subject.engine.module.buffers()]
    needed = int(copies * sum(each.nbytes for each in weights))
    device = subject.engine.device
    if device.type == "cpu":
        return why_not(needed, what) or ""
    free = torch.cuda.mem_get_info(device)[0]
    return "" if needed <= free else f"{what} takes at least {gib(needed)}, and {gib(free)} are free"

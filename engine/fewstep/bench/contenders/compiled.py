"""torch.compile of the network, in each of the ways that people are told to use it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.bench.contenders.case import Case
from fewstep.bench.contenders.contender import (
    COMPILE,
    FREEZING,
    MAX_AUTOTUNE,
    REDUCE_OVERHEAD,
    REGIONAL,
    Contender,
)
from fewstep.bench.contenders.plain import Eager
from fewstep.bench.contenders.racer import Absent
from fewstep.bench.contenders.standin import Program, Standin, by_position, no_room, taken
from fewstep.bench.subjects import Subject
from fewstep.errors import reason_of
from fewstep.run.backends.export import ALONE

MOST = 256  # programs of one piece of Python: of each block, batch size and dtype in a race; torch allows 8


@dataclass(frozen=True)
class Way:
    """How torch.compile is told to work.

    Attributes:
        mode: its argument.
        regional: each repeated block by itself, where the network stands, and not the network as one graph.
        frozen: on a CPU with the weights as constants of the program.
        lacks_on_cpu: why it is no other program on a CPU.
    """

    mode: str | None = None
    regional: bool = False
    frozen: bool = False
    lacks_on_cpu: str = ""


WAYS = {
    COMPILE: Way(),
    REGIONAL: Way(regional=True),
    REDUCE_OVERHEAD: Way("reduce-overhead", lacks_on_cpu="on a CPU it is the same program as compile: no CUDA graphs"),
    # Inductor's GEMM templates in C++ take a matrix of weights only where it is a constant.
    MAX_AUTOTUNE: Way("max-autotune", frozen=True),
    FREEZING: Way(frozen=True),
}


class Compiled(Eager):
    """The reference's loop around torch.compile of diffusers' module where there is one, else of ours.

    A program is for one shape, and the network one graph unless it is compiled by blocks.
    """

    def __init__(self, contender: Contender, subject: Subject, lacks: str = "") -> None:
        self.way, on_cpu = WAYS[contender.kind], subject.engine.device.type == "cpu"
        frozen_elsewhere = "frozen on a CPU alone" if contender.kind == FREEZING and not on_cpu else ""
        super().__init__(contender, subject, lacks or (self.way.lacks_on_cpu if on_cpu else frozen_elsewhere))
        self.frozen = self.way.frozen and on_cpu

    @cached_property
    def network(self) -> nn.Module:
        """What the loop calls. Absent where it has no blocks to compile."""
        module = taken(self.subject)
        if self.way.regional:
            compile_blocks(module)
        called = by_position(self.subject, module)
        return Standin(self.subject, called if self.way.regional else _whole(called, self.way.mode))

    @property
    def networks(self) -> Sequence[nn.Module]:
        """What stands before the compiled one: a clock inside of it would be compiled too."""
        return () if self.lacks else (self.network,)

    def prepare(self, case: Case) -> None:
        """Compile for its batch size; absent with torch's reason where that fails, or is done again at every call."""
        if self.absent(case) or case.batch in self.ready:
            return
        if self.frozen and not self.ready:
            self.lacks = no_room(self.subject, "a program with the weights in it", 1)
            if self.lacks:
                return
        try:
            with ALONE, self._settings():
                super().prepare(case)
                if not self.lacks:
                    compiled = _graphs()
                    self.run(case)(2)
                    if _graphs() != compiled:
                        raise Absent("torch.compile: it compiles the network again at every call")
        except Absent as why:
            self.lacks = str(why)
        except Exception as error:  # of the tracer, of the compiler, or for want of one for C++
            self.lacks = f"torch.compile: {type(error).__name__}: {reason_of(error)}"

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """What torch is told while it compiles, and only then: a race has other programs of the same process."""
        import torch._dynamo
        import torch._inductor.config

        inductor: Any = torch._inductor.config
        with ExitStack() as stack:
            stack.enter_context(torch._dynamo.config.patch(recompile_limit=MOST, accumulated_recompile_limit=16 * MOST))
            stack.enter_context(inductor.patch(autotune_num_choices_displayed=0))  # it would print a table of each
            if self.frozen:
                stack.enter_context(inductor.patch(freezing=True))
            yield


def compile_blocks(module: nn.Module) -> None:
    """Compile in place what a network repeats: what diffusers names for that, else each block of its lists.

    diffusers names blocks of UNet2DConditionModel for its `compile_repeated_blocks`, and none of UNet2DModel.

    Raises:
        Absent: there is none.
    """
    how: dict[str, Any] = {"fullgraph": True, "dynamic": False}
    if getattr(module, "_repeated_blocks", None):
        module.compile_repeated_blocks(**how)  # type: ignore[operator] # of diffusers' ModelMixin
        return
    blocks = list(_blocks(module))
    if not blocks:
        raise Absent("no repeated blocks: it has no nn.ModuleList")
    for block in blocks:
        block.compile(**how)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost nn.ModuleLists, and what diffusers' U-Nets have between them."""
    for name, child in module.named_children():
        listed = isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList)
        if listed or name == "mid_block":
            yield child
        else:
            yield from _blocks(child)


def _whole(network: nn.Module, mode: str | None) -> Program:
    """A function whose code is its own: torch bounds how often one piece of code is compiled."""

    def call(*inputs: Tensor) -> Tensor:
        answer: Tensor = network(*inputs)
        return answer

    own = FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
    compiled: Callable[..., Tensor] = torch.compile(own, fullgraph=True, dynamic=False, mode=mode)
    if mode is None:
        return compiled

    def stepped(*inputs: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # what a call answered is used before the next, which overwrites it
        return compiled(*inputs)

    return stepped


def _graphs() -> int:
    """How many graphs this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])

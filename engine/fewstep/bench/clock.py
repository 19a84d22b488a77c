"""Clocks: a whole run, and within the same run the network's share and the loop's."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from types import TracebackType
from typing import Any

import torch
from torch import nn

from fewstep.engine import Engine
from fewstep.run.backends import Network
from fewstep.run.runners import Run

Now = Callable[[], float]  # seconds


def clock_of(device: torch.device) -> Now:
    """The time once the device has done what was asked of it."""
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


@dataclass(frozen=True)
class Timing:
    """One run, in seconds."""

    wall: float
    network: float  # within the network's calls
    loop: float  # within the sampling loop, network included; 0 for a contender without `timed_loop`
    calls: int  # of the network, as seen from the host: a replayed graph makes none
    host: float | None = None  # until the call had returned, the device still at work; None where a call waits for it


class Stopwatch:
    """Counts the time spent inside networks and runners while it is entered.

        with Stopwatch(modules, now) as watch:
            timing = watch.time(run)

    A module's forward is replaced for as long, on the instance. On CUDA each reading waits for the device, so a
    run's parts add up, but a host that would have run ahead does not: what a run takes there is timed without modules.

    Args:
        modules: whose calls are counted.
        now: the time once the device is done.
        host: the time as it is, where that is another: then a timing says when the run returned.
    """

    def __init__(self, modules: Sequence[nn.Module], now: Now = time.perf_counter, host: Now | None = None) -> None:
        self.modules, self.now, self.host = modules, now, host
        self.network, self.loop, self.calls = 0.0, 0.0, 0
        self._within = False

    def __enter__(self) -> "Stopwatch":
        for module in self.modules:
            vars(module)["forward"] = wraps(module.forward)(self.timed(module.forward))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for module in self.modules:
            vars(module).pop("forward", None)

    def time(self, run: Callable[[], object]) -> Timing:
        """Run once."""
        self.network, self.loop, self.calls = 0.0, 0.0, 0
        started = self.now()
        asked = None if self.host is None else self.host()
        run()
        returned = None if self.host is None or asked is None else self.host() - asked
        return Timing(self.now() - started, self.network, self.loop, self.calls, returned)

    def timed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A call of a network, counted once: a program may call the module, whose calls are counted as well."""

        def timed(*arguments: Any, **named: Any) -> Any:
            if self._within:
                return forward(*arguments, **named)
            self._within = True
            try:
                started = self.now()
                answer = forward(*arguments, **named)
                self.network += self.now() - started
                self.calls += 1
            finally:
                self._within = False
            return answer

        return timed


class TimedNetwork:
    """An engine's network whose calls are counted, whether a program or a module answers them."""

    def __init__(self, network: Network, watch: Stopwatch) -> None:
        vars(self).update(_network=network, _call=watch.timed(network))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._call(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._network, name, value)


@contextmanager
def timed_loop(engine: Engine, watch: Stopwatch) -> Iterator[None]:
    """The engine with the steps of its runs under the watch, from the first of a run to its last.

    So are the calls of its network.
    """
    runner, network = engine._runner, engine._network
    prepare = runner.prepare

    def timed_prepare(*arguments: Any, **named: Any) -> Run:
        run = prepare(*arguments, **named)
        vars(run)["advance"] = partial(_watched, run.advance, watch)
        return run

    vars(runner)["prepare"] = timed_prepare
    vars(engine)["_network"] = TimedNetwork(network, watch)
    try:
        yield
    finally:
        del vars(runner)["prepare"]
        vars(engine)["_network"] = network


def _watched(advance: Callable[[int], None], watch: Stopwatch, steps: int) -> None:
    started = watch.now()
    advance(steps)
    watch.loop += watch.now() - started

"""The batcher: asks of many people, let in by any thread and run by the one that owns the device."""

import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from fewstep.errors import ArgumentError, UnusedPartWarning
from fewstep.models.lora.adapters import Loaded
from fewstep.serve.asks import Ask, Listener, Ticket
from fewstep.serve.batching.costs import Costs
from fewstep.serve.batching.inbox import Call, Inbox
from fewstep.serve.batching.loop import Loop
from fewstep.serve.batching.planning import Planning
from fewstep.serve.batching.tally import Tally
from fewstep.serve.family import Family
from fewstep.serve.limits import Limits
from fewstep.serve.refusals import RefusedError

Answer = TypeVar("Answer")


class Batcher:
    """Runs asks of several families on one device, each sample by its own plan, side by side where a session can.

    `start` it, `submit` to it from any thread, `drain` and `close` it.

    Args:
        families: by served name.
        limits: how much it takes on.
        costs: what steps cost, as far as it is known; measured while it runs.
        died: called once, on the device's thread, when the device is lost and nothing more can run.
    """

    def __init__(
        self,
        families: Mapping[str, Family],
        limits: Limits | None = None,
        *,
        costs: Costs | None = None,
        died: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.families, self.limits = dict(families), limits or Limits()
        self._inbox, self._tally = Inbox(self.limits), Tally()
        self.costs = Costs() if costs is None else costs
        self._planning = Planning(self.families, self.limits, self.costs)
        self._loop = Loop(self.families, self.limits, self._inbox, self._tally, self._planning, died)
        self._thread: threading.Thread | None = None

    @property
    def ready(self) -> bool:
        """Whether asks are let in."""
        return self._alive and self._inbox.standing == "open"

    @property
    def _alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, *, warm: bool = False) -> None:
        """Start the thread that owns the device, and let asks in.

        Args:
            warm: only when every model is made ready and its steps are measured. That may take a while; until then asks
                are refused, with "starting", and `ready` is False.
        """
        self._thread = threading.Thread(target=self._loop.run, args=(warm,), name="fewstep-device", daemon=True)
        if not warm:
            self._inbox.stand("open", ("starting",))
        self._thread.start()

    def submit(self, asks: Sequence[Ask], listener: Listener) -> list[Ticket]:
        """Let some asks in, all or none of them. Any thread may.

        What is wrong with an ask is told to the listener, as `Failed` with the reason "invalid".

        Raises:
            ArgumentError: a model that is not served.
            RefusedError: nothing was let in, and why.
        """
        for ask in asks:
            self._check(ask.model)
        tickets = [Ticket(ask, listener, left=self._left) for ask in asks]
        seconds = self._inbox.waiting * self._tally.seconds_per_image()
        with self._planning.lock:
            self._check_time(asks)
            for ticket in tickets:
                self._planning.let_in(ticket)
            try:
                self._inbox.put(tickets, retry_after=min(60.0, max(1.0, seconds)))
            except RefusedError:
                for ticket in tickets:
                    self._planning.ended(ticket)
                raise
        return tickets

    def call(self, function: Callable[[], Answer], model: str | None = None) -> "Future[Answer]":
        """Have the device's thread call a function between two steps. Any thread may ask.

        Args:
            function: called without arguments; all else waits meanwhile.
            model: whose weights it changes. It is called when all that runs on them has come to its end, and no session
                is open; until then nobody new begins on them, and other models go on.

        Raises:
            ArgumentError: a model that is not served.
        """
        if model is not None:
            self._check(model)
        call = Call(function, model)
        self._inbox.call(call)
        return call.future

    def load_lora(
        self, model: str, source: str | os.PathLike[str] | Mapping[str, Any], name: str | None = None
    ) -> "Future[Loaded]":
        """Make an adapter ready on every member of a family, for asks to name in `Ask.lora`; what it was found to be.

        The future raises what `Engine.load_lora` does, and then none of the members has it.
        """

        def load() -> Loaded:
            found: dict[Any, Loaded] = {}
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UnusedPartWarning)  # `Loaded.unused` says it
                    for engine in self._engines(model):
                        found[engine] = engine.load_lora(source, name, 0.0)
            except Exception:
                for engine, each in found.items():
                    engine.unload_lora(each.name)
                raise
            return found[self.families[model].first]

        return self.call(load, model)

    def unload_lora(self, model: str, name: str) -> "Future[None]":
        """Take an adapter out of every member of a family; the future raises what `Engine.unload_lora` does."""

        def unload() -> None:
            for engine in self._engines(model):
                engine.unload_lora(name)

        return self.call(unload, model)

    def loras(self, model: str) -> "Future[list[str]]":
        """The adapters that asks of a model may name, in the order in which they were loaded."""
        self._check(model)
        return self.call(lambda: list(self.families[model].first.loras))

    def drain(self, seconds: float | None = None) -> bool:
        """Let nothing more in, and wait for what was; whether all of it came to its end."""
        if not self._inbox.stand("draining", ("open",)):
            self._inbox.stand("closed", ("starting",))
        if self._thread is not None:
            self._thread.join(self.limits.drain_seconds if seconds is None else seconds)
        return not self._alive and self._inbox.standing != "dead"

    def close(self) -> None:
        """Stop at the next step; who still waits is told."""
        self._inbox.stand("closed")
        if self._thread is not None:
            self._thread.join()

    def stats(self) -> dict[str, Any]:
        """What stands where, for /metrics and the page. Any thread may ask; it costs the device's thread nothing.

        Returns:
            state: "starting", "open", "draining", "closed" or "dead".
            queued, queued_bytes: images that wait, and bytes of their pictures and masks; both of the limits' bounds.
            refused: images that were not let in, by `RefusedError.why`.
            slots: samples that run together on one model, at most.
            running: samples that run now, by member.
            groups: of samples that share a session, a list of {member, features (beyond the base tier), lora, queued,
                running, limit (samples together; lower for a while after memory ran out), slots, lanes (that samples of
                the open session may own; 0 without one), seconds (of the device, as fair shares count them)}.
            finished, finished_by_member: images.
            failed: tickets, by the reason of `Failed`.
            steps, rows: steps of sessions, and samples in them summed, by member; occupancy: rows for each step.
            step_seconds: {member: {lanes in use: {"count", "seconds"}}}, summed.
            device_seconds: in steps; queue_seconds, run_seconds: summed over finished images.
            restarts: samples that began again after a fault; faults: by "out_of_memory" or "worker".
            lora_swaps: changes of the adapters in some weights.
            listener_errors: listeners that raised.
            graphs: {member: `Engine.stats`}.
            memory: {"device_allocated", "device_reserved"} in bytes of the GPU; empty on a CPU.
        """
        groups = [
            {
                "member": group.member.name,
                "features": list(group.needs.beyond),
                "lora": dict(weights.current),
                "queued": len(group.waiting),
                "running": len(group.running),
                "limit": group.limit,
                "slots": 0 if (bucket := group.bucket) is None else bucket.slots,
                "lanes": 0 if bucket is None else bucket.lanes,
                "seconds": group.clock,
            }
            for weights, group in self._loop.groups()
        ]
        running: dict[str, int] = {}
        for weights, group in self._loop.groups():
            running[weights.member.name] = running.get(weights.member.name, 0) + len(group.running)
        return {
            "state": self._inbox.standing,
            "queued": self._inbox.waiting,
            "queued_bytes": self._inbox.waiting_bytes,
            "refused": dict(self._inbox.refused),
            "slots": self.limits.slots,
            "running": running,
            "groups": groups,
            **self._tally.read(),
            "graphs": {weights.member.name: weights.engine.stats() for weights in self._loop.weights.values()},
            "memory": self._memory(),
        }

    def _check_time(self, asks: Sequence[Ask]) -> None:
        try:
            self._planning.check(asks)
        except RefusedError as refused:
            self._inbox.refused[refused.why] += len(asks)
            raise

    def _left(self, ticket: Ticket) -> None:
        if ticket.state == "queued":
            self._planning.ended(ticket)
        self._inbox.cancelled(ticket)

    def _memory(self) -> dict[str, int]:
        device = next((each.device for each in self._loop.weights if each.device.type == "cuda"), None)
        if device is None:
            return {}
        allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        return {"device_allocated": allocated, "device_reserved": reserved}

    def _engines(self, model: str) -> list[Any]:
        return list({id(member.engine): member.engine for member in self.families[model].members}.values())

    def _check(self, model: str) -> None:
        if model not in self.families:
            raise ArgumentError("model", model, f"one of {', '.join(self.families)}")

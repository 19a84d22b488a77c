"""The thread that owns the device: it takes what has come, gives slots, takes one step of one group, and tells."""

import heapq
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from fewstep.engine import Engine
from fewstep.errors import ArgumentError, FewstepError
from fewstep.serve.asks import Ticket
from fewstep.serve.batching.buckets import buckets_of
from fewstep.serve.batching.delivery import Delivery
from fewstep.serve.batching.faults import SAID, Kind, free_memory, kind_of, let_go, settle
from fewstep.serve.batching.group import Group, session_words
from fewstep.serve.batching.inbox import Call, Inbox
from fewstep.serve.batching.job import Job
from fewstep.serve.batching.needs import needs_of
from fewstep.serve.batching.planning import Planning
from fewstep.serve.batching.shares import Shares
from fewstep.serve.batching.tally import Tally
from fewstep.serve.batching.weights import Weights
from fewstep.serve.family import Family, Member
from fewstep.serve.limits import Limits
from fewstep.serve.refusals import RefusedError

LOOKS: Final = 1.0  # seconds after which a loop with nothing to do looks for sessions to close
IDLE: Final = 60.0  # seconds after which a session that nobody uses is closed
PLACES: Final = 0.02  # seconds of every turn, at most, in which samples are made while others run

_log: Final = logging.getLogger("fewstep.serve")


class DeviceLostError(Exception):
    """Nothing runs on the device any more; its cause says why."""


class Loop:
    """Runs until it is told to stop, or until the device is lost. All of it but `run` is for its own thread.

    Args:
        families: by served name.
        limits: of the server.
        inbox: where tickets and calls come from.
        tally: what is counted.
        planning: of who comes, when.
        died: called once where the device is lost, after everybody was told.
    """

    def __init__(
        self,
        families: Mapping[str, Family],
        limits: Limits,
        inbox: Inbox,
        tally: Tally,
        planning: Planning,
        died: Callable[[BaseException], None],
    ) -> None:
        self.families, self.limits, self.inbox, self.tally, self._died = families, limits, inbox, tally, died
        self.planning, self.delivery, self.shares = planning, Delivery(inbox, tally, planning), Shares()
        self.weights: dict[Engine, Weights] = {}
        for member in (member for family in families.values() for member in family.members):
            self.weights.setdefault(member.engine, Weights(member, limits))
        self._arrived: deque[Ticket] = deque()  # that have no sample yet
        self._calls: deque[Call] = deque()
        self._deadlines: list[float] = []
        self._looked = time.monotonic()

    def run(self, warm: bool = False) -> None:
        """Serve until the end, and tell whoever is left then; `warm`: first make the models ready."""
        try:
            if warm:
                self._warm_up()
            self.inbox.stand("open", ("starting",))
            while self._turn():
                pass
        except DeviceLostError as error:
            self._die(error.__cause__ or error)
        except BaseException as error:  # a defect of ours: nobody can say what state the sessions are in
            self._die(error)
        else:
            self._end("closed", "the server has stopped")

    def groups(self) -> list[tuple[Weights, Group]]:
        """All there are; any thread may ask."""
        return [(weights, group) for weights in self.weights.values() for group in list(weights.groups.values())]

    def _warm_up(self) -> None:
        """Measure every model, so that deadlines can be judged, and capture graphs. Who fails is left cold."""
        for weights in self.weights.values():
            if self.inbox.standing != "starting":
                return
            try:
                self._warm(weights.member)
            except Exception as error:
                _log.warning("%s is not warm: %s", weights.member.name, self._kind(error), exc_info=error)

    def _warm(self, member: Member) -> None:
        if member.engine.stats()["runner"] == "graph":
            sizes = buckets_of(member.engine, self.limits.slots)
            member.engine.warm_up([{"session": session_words(bucket, self.limits)} for bucket in sizes])
        self.planning.costs.calibrate(member, self.limits.slots, quick=True)

    @property
    def _busy(self) -> bool:
        return bool(self._arrived or self._calls) or any(weights.busy for weights in self.weights.values())

    def _turn(self) -> bool:
        """Everything between two steps, and a step; whether there is to be another."""
        tickets, calls, somebody_left = self.inbox.take(0 if self._busy else LOOKS)
        if self.inbox.standing == "closed":
            return False
        self._arrived += tickets
        self._calls += calls
        for ticket in tickets:
            self.delivery.open[ticket.number] = ticket
            if ticket.ask.deadline is not None:
                heapq.heappush(self._deadlines, ticket.ask.deadline)
        if self._is_late() or somebody_left:
            self._sweep()
        self._place_arrived()
        self._make_calls()
        for weights in self.weights.values():
            if weights.is_due and weights.quiet and not weights.held:
                self._swap(weights)
        ready = [(w, g) for w, g in self.groups() if g.began or (g.waiting and w.admits)]
        fair = self.shares.next(group for _, group in ready)
        if fair is not None:
            group = self.planning.next([each for _, each in ready], fair)
            self._serve(next(weights for weights, each in ready if each is group), group)
        self._close_idle()
        return self._busy or self.inbox.standing != "draining"

    # Who comes and goes

    def _is_late(self) -> bool:
        """Whether a deadline has passed since the last turn."""
        now, late = time.monotonic(), False
        while self._deadlines and self._deadlines[0] <= now:
            heapq.heappop(self._deadlines)
            late = True
        return late

    def _leaves(self, ticket: Ticket) -> bool:
        """Whether a ticket is to leave; because of a deadline only one that does not run yet."""
        deadline = ticket.ask.deadline
        return ticket.abandoned or (ticket.state == "queued" and deadline is not None and deadline <= time.monotonic())

    def _dismiss(self, ticket: Ticket) -> None:
        """Tell a ticket that leaves why, when it is out of all queues and slots."""
        if ticket.abandoned:
            self.delivery.failed(ticket, "cancelled", "cancelled")
        else:
            self.delivery.failed(ticket, "deadline", "its deadline passed before it could begin", "deadline_ms")

    def _sweep(self) -> None:
        """Whoever was cancelled, or whose deadline has passed while it waited, leaves."""
        leaving = [ticket for ticket in self._arrived if self._leaves(ticket)]
        self._arrived = deque([ticket for ticket in self._arrived if ticket not in leaving])
        for weights in self.weights.values():
            for ticket in [ticket for ticket in weights.tickets() if self._leaves(ticket)]:
                weights.forget(ticket)
                leaving.append(ticket)
        for _, group in self.groups():
            for job in [job for job in group.jobs() if self._leaves(job.ticket)]:
                group.drop(job)
                leaving.append(job.ticket)
        for ticket in leaving:
            self._dismiss(ticket)

    def _place_arrived(self) -> None:
        """Make the samples of those that have come; while others run only for a while."""
        until = time.monotonic() + PLACES
        runs = any(not weights.quiet for weights in self.weights.values())
        while self._arrived:
            ticket = self._arrived.popleft()
            self._place(ticket)
            if runs and time.monotonic() >= until:
                break

    def _place(self, ticket: Ticket) -> None:
        """Into its group, or where it waits for its adapters."""
        if self._leaves(ticket):
            self._dismiss(ticket)
            return
        ask, family, began = ticket.ask, self.families[ticket.ask.model], time.perf_counter()
        try:
            member = family.member(ticket.steps)
            weights = self.weights[member.engine]
            if ask.lora != weights.current:
                weights.put_off(ticket)
                return
            sample, said = family.samples(ask, member, ticket.steps)
            job = Job(ticket, member, sample, needs_of(sample, trajectory=ask.trajectory), warnings=said)
            if job.steps > self.limits.steps:
                raise ArgumentError("steps", job.steps, f"at most {self.limits.steps} model calls")
            group = weights.group(job.needs)
        except Exception as error:
            self._refuse(ticket, error)
            return
        job.build_seconds = time.perf_counter() - began
        if not group.busy:
            self.shares.enter(group)
        self.planning.enqueue(job, group)

    def _refuse(self, ticket: Ticket, error: Exception) -> None:
        """A ticket has come to nothing before its first step, by an error that is its own."""
        if isinstance(error, FewstepError):
            self.delivery.failed(ticket, "invalid", str(error), getattr(error, "argument", None))
            return
        kind = self._kind(error)
        self.delivery.failed(ticket, kind, SAID[kind])

    # Weights that change

    def _make_calls(self) -> None:
        """Call what was asked for; one that changes weights waits until nothing runs with them."""
        waiting: deque[Call] = deque()
        blocked: set[str] = set()
        while self._calls:
            call = self._calls.popleft()
            if call.model is None:
                self._make(call)
            elif call.model in blocked or not self._held(call.model):
                blocked.add(call.model)
                waiting.append(call)
            else:
                self._change(call, call.model)
        self._calls = waiting

    def _make(self, call: Call) -> None:
        call.run()
        error = None if call.future.cancelled() else call.future.exception()
        if error is not None and kind_of(error) == "dead":
            raise DeviceLostError from error

    def _of(self, model: str) -> list[Weights]:
        return list({id(w): w for w in (self.weights[m.engine] for m in self.families[model].members)}.values())

    def _held(self, model: str) -> bool:
        """Admit no more to the sessions of a model; whether nothing runs there."""
        for weights in self._of(model):
            weights.held = True
        return all(weights.quiet for weights in self._of(model))

    def _change(self, call: Call, model: str) -> None:
        """Make a call while no session of a model is open; its tickets are placed again with the new weights."""
        held = self._of(model)
        back = [ticket for weights in held for ticket in weights.empty()]
        try:
            self._make(call)
            for weights in held:
                weights.apply(())
        finally:
            for weights in held:
                weights.held = False
        self._arrived.extendleft(reversed(back))

    def _swap(self, weights: Weights) -> None:
        """Other adapters for an engine on which nothing runs."""
        try:
            tickets = weights.swap()
            self.tally.swaps += 1
        except FewstepError as error:
            _, refused = weights.others.popitem(last=False)
            for ticket in refused:
                self.delivery.failed(ticket, "invalid", str(error), "lora")
            return
        for ticket in tickets:
            self._place(ticket)

    # A step

    def _serve(self, weights: Weights, group: Group) -> None:
        """Give free slots away, and take a step."""
        self._fill(weights, group)
        if not group.running:
            return
        began, count, lanes = time.perf_counter(), len(group.running), group.rows
        try:
            seconds = group.step()
        except Exception as error:
            self.shares.charge(group, time.perf_counter() - began)
            self._fault(group, error)
            return
        self.shares.charge(group, seconds)
        self.tally.step(group.member.name, count, lanes, seconds)
        self.planning.step(group, lanes, seconds)
        for slot, job in list(group.running.items()):
            self._tell(group, slot, job)

    def _fill(self, weights: Weights, group: Group) -> None:
        """Admit who may come now."""
        fitted = False
        while True:
            job = group.next_job(weights.admits)
            if job is not None and self._leaves(job.ticket):
                group.drop(job)
                self._dismiss(job.ticket)
                continue
            if job is not None and (choice := self.planning.choose_again(job)) is not None:
                group.drop(job)
                job.ticket.steps = choice.steps
                self._place(job.ticket)
                continue
            if job is not None and not self.planning.may_join(job, group):
                job = None
            if job is None and (fitted or not group.running):
                return
            try:
                if not fitted or group.session is None:
                    group.fit(weights.admits)
                    fitted = True
                if job is None:
                    return
                why = group.admit(job)
            except Exception as error:
                self._not_admitted(group, job, error)
                return
            if why == "":
                return
            if why is not None:
                group.drop(job)
                self.delivery.failed(job.ticket, "invalid", why)
                continue
            weights.count()
            self.planning.began(job)
            self.delivery.admitted(job)

    def _not_admitted(self, group: Group, job: Job | None, error: Exception) -> None:
        """A session could not be opened, or did not take a job: who is to blame is alone, or fewer run for a while."""
        memory = isinstance(error, ArgumentError) and error.argument == "slots"
        kind: Kind = "out_of_memory" if memory else self._kind(error)
        _log.warning("no slot on %s: %s", group.member.name, kind, exc_info=error)
        let_go(error)
        self.tally.faults[kind] += 1
        if group.session is None and group.running:  # they were being moved
            self._restart(group, kind)
        elif kind == "out_of_memory" and group.crowded():
            pass  # it comes later, when there is more room
        elif job is not None:
            group.drop(job)
            if isinstance(error, FewstepError) and not memory:
                self._refuse(job.ticket, error)
            else:
                self.delivery.failed(job.ticket, kind, SAID[kind])

    def _fault(self, group: Group, error: Exception) -> None:
        """A step has failed: whoever took part in it begins again in halves, and who was alone has failed."""
        kind = self._kind(error)
        self.tally.faults[kind] += 1
        _log.warning("a step of %s failed: %s", group.member.name, kind, exc_info=error)
        let_go(error)  # else an out-of-memory error would keep what filled the memory
        self._restart(group, kind)
        try:
            settle(group.member.engine.device)
        except Exception as lost:
            raise DeviceLostError from lost

    def _restart(self, group: Group, kind: Kind) -> None:
        jobs = list(group.running.values())
        guilty = group.fault(kind == "out_of_memory")
        if guilty is None:
            self.tally.restarts += len(jobs)
            for job in jobs:
                self.planning.begins_again(job)
        else:
            self.delivery.failed(guilty.ticket, kind, SAID[kind])

    def _kind(self, error: Exception) -> Kind:
        """What an error means; a device that is lost ends everything."""
        kind = kind_of(error)
        if kind == "dead":
            raise DeviceLostError from error
        return kind

    def _tell(self, group: Group, slot: int, job: Job) -> None:
        """What a step has come to for one of its jobs."""
        if job.ticket.abandoned:
            group.drop(job)
            self._dismiss(job.ticket)
            return
        self.planning.stepped(job)
        preview = None
        if job.is_previewed() and job.done > job.told:
            try:
                preview = group.preview(slot).cpu().numpy()
            except Exception as error:
                self.tally.faults[self._kind(error)] += 1  # it goes without
        self.delivery.progress(job, preview)
        if job.done >= job.steps:
            self._finish(group, slot, job)

    def _finish(self, group: Group, slot: int, job: Job) -> None:
        """The image of a job that is done; what goes wrong with it is its own."""
        began = time.perf_counter()
        try:
            try:
                images = group.take(slot)
            except Exception as error:
                if self._kind(error) != "out_of_memory":
                    raise
                let_go(error)
                free_memory(group.member.engine.device)
                images = group.take(slot)
            del group.running[slot]
            self.delivery.finished(job, images)
            self.planning.image(job, began)
        except DeviceLostError:
            raise
        except Exception as error:
            kind = self._kind(error)
            self.tally.faults[kind] += 1
            _log.warning("no image on %s: %s", group.member.name, kind, exc_info=error)
            group.drop(job)
            self.delivery.failed(job.ticket, kind, SAID[kind])

    def _close_idle(self) -> None:
        """Give back what sessions hold that nobody has used for a while."""
        now = time.monotonic()
        if now - self._looked >= LOOKS:
            self._looked = now
            for weights in self.weights.values():
                weights.close_idle(IDLE)

    # The end

    def _end(self, standing: str, message: str) -> None:
        """Tell whoever is left, and close what is open."""
        self.inbox.stand("dead" if standing == "dead" else "closed", ("starting", "open", "draining"))
        tickets, calls, _ = self.inbox.take(0)
        for ticket in [*self.delivery.open.values(), *tickets]:
            self.delivery.failed(ticket, "dead", message)
        for call in [*self._calls, *calls]:
            call.refuse(RefusedError("dead" if standing == "dead" else "draining", message))
        for _, group in self.groups():
            try:
                group.close()
            except Exception:
                _log.exception("a session did not close")
            group.running.clear()
            group.waiting.clear()

    def _die(self, error: BaseException) -> None:
        _log.critical("the device is lost", exc_info=error)
        self._end("dead", SAID["dead"])
        self._died(error)

"""A group: jobs of one engine that a session takes side by side, those that wait for a slot and those that have one."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

from torch import Tensor

from fewstep.run.decode import Images
from fewstep.run.sample import Sample
from fewstep.run.session import Session
from fewstep.serve.batching.buckets import Bucket, bucket_for, buckets_of
from fewstep.serve.batching.faults import free_memory, settle
from fewstep.serve.batching.job import Job
from fewstep.serve.batching.needs import BASE, HISTORY, Needs
from fewstep.serve.family import Member
from fewstep.serve.limits import Limits

RECOVERS: Final = 32  # steps without a fault after which twice as many samples may run together again
SHRINKS: Final = 8  # steps that would have fitted into half the size, after which the session gets smaller


class Group:
    """The jobs of one engine with the same needs, and their session. Used by the device's thread alone.

    After a fault the jobs that were in the step begin again in two halves, one after the other and with nobody beside
    them; a half that fails is halved again. Who is to blame ends up alone, and the others end as they would have.

    Args:
        needs: what the jobs have in common.
        member: who draws.
        limits: of the server.
        usual: a session for samples of this condition needs no example of one.
    """

    def __init__(self, needs: Needs, member: Member, limits: Limits, usual: bool) -> None:
        self.needs, self.member, self.limits, self.usual = needs, member, limits, usual
        self.buckets = buckets_of(member.engine, limits.slots)
        self.waiting: deque[Job] = deque()
        self.running: dict[int, Job] = {}
        self.session: Session | None = None
        self.bucket: Bucket | None = None
        self.limit = self.buckets[-1].slots  # samples at once; less for a while after memory ran out
        self.clock = 0.0  # seconds of the device's time that it has had, as `Shares` counts them
        self.last_used = time.monotonic()
        self._again: deque[deque[Job]] = deque()  # each to run with nobody beside it
        self._apart: deque[Job] | None = None  # the one of those that runs now, as far as it has no slot yet
        self._clean = 0  # steps since the last fault
        self._roomy = 0  # steps that would have fitted into half the size

    @property
    def began(self) -> bool:
        """Whether some of its jobs run, or have run and begin again."""
        return bool(self.running or self._apart or self._again)

    @property
    def runs_apart(self) -> bool:
        """Whether those that run begin again after a fault, with nobody beside them."""
        return self._apart is not None

    @property
    def busy(self) -> bool:
        """Whether it has anything to do."""
        return bool(self.waiting) or self.began

    @property
    def rows(self) -> int:
        """Rows of the network's batch that its samples own."""
        return sum(job.lanes for job in self.running.values())

    def jobs(self) -> Iterator[Job]:
        """All that have not ended."""
        yield from self.running.values()
        yield from self._apart or ()
        for half in self._again:
            yield from half
        yield from self.waiting

    def drop(self, job: Job) -> None:
        """Take a job out, wherever it is."""
        slot = next((slot for slot, each in self.running.items() if each is job), None)
        if slot is not None:
            del self.running[slot]
            if self.session is not None:
                self.session.cancel(slot)
            return
        for queue in (self.waiting, *([] if self._apart is None else [self._apart]), *self._again):
            if job in queue:
                queue.remove(job)
        self._again = deque(half for half in self._again if half)

    def next_job(self, fresh: bool = True) -> Job | None:
        """Who is to have the next slot, if there may be one more now; `fresh`: also one that has not run yet."""
        if len(self.running) >= self.limit and self._apart is None:
            return None
        if self._apart is not None and not self._apart and not self.running:
            self._apart = None
        if self._apart is None and self._again:
            if self.running:
                return None
            half = self._again.popleft()
            if len(half) > self.limit:
                self._again.appendleft(deque([*half][self.limit :]))
            self._apart = deque([*half][: self.limit])
        if self._apart is not None:
            return self._apart[0] if self._apart else None
        return self.waiting[0] if self.waiting and fresh else None

    def fit(self, fresh: bool = True) -> None:
        """Open a session of the size that the jobs ask for, or move them to one; what fails is raised.

        What was running is as it was, or begins again.
        """
        wanted = bucket_for(self.buckets, self._demand(fresh))
        if self.session is None or self.bucket is None:
            self._open(wanted)
        elif wanted.lanes > self.bucket.lanes:
            self._move(wanted)
        elif 2 * wanted.lanes <= self.bucket.lanes:
            self._roomy += 1
            if self._roomy >= SHRINKS:
                self._move(wanted)
        else:
            self._roomy = 0

    def admit(self, job: Job) -> str | None:
        """Give the next job a slot; why there is none for it where the session would never take it, "" for not now."""
        session = self.session
        assert session is not None  # `fit` has opened it
        why = session.why_not(job.sample)
        if why is not None:
            return "" if self.running else why
        slot = session.admit(job.sample)[0]
        (self.waiting if self._apart is None else self._apart).popleft()
        self.running[slot] = job
        if job.started is None:
            job.started = time.monotonic()
        if job.ticket.ask.trajectory:
            job.states.append(session.sample(slot).start.x)
        return None

    def step(self) -> float:
        """Take one step with all that run; the seconds that it took. What it raises has left the session unusable."""
        session = self.session
        assert session is not None  # there are samples in it
        began = time.perf_counter()
        moved = session.compact()
        self.running = {moved.get(slot, slot): job for slot, job in self.running.items()}
        session.advance(1)
        settle(self.member.engine.device)
        for slot, job in self.running.items():
            job.done += 1
            if job.ticket.ask.trajectory:
                job.states.append(session.sample(slot).start.x)
        self._clean += 1
        if self.limit < self.buckets[-1].slots and self._clean >= RECOVERS and not self._again:
            self.limit, self._clean = min(2 * self.limit, self.buckets[-1].slots), 0
        self.last_used = time.monotonic()
        return time.perf_counter() - began

    def take(self, slot: int) -> Images:
        """The image of a job that is done, whose slot others may have then."""
        assert self.session is not None  # a job is in it
        return self.session.take(slot)

    def preview(self, slot: int) -> Tensor:
        """The estimate of x_0 of a job, uint8 [H, W, C]."""
        assert self.session is not None  # a job is in it
        return self.session.picture(slot)

    def fault(self, out_of_memory: bool) -> Job | None:
        """After a step that failed: close the session, and let its jobs begin again in halves; the job that was alone.

        Args:
            out_of_memory: fewer may run together for a while.
        """
        jobs = sorted(self.running.values(), key=lambda job: job.ticket.number)
        self.running.clear()
        self.close()
        self._clean = 0
        if self._apart:  # some of those that run apart had no slot yet
            self._again.appendleft(self._apart)
        self._apart = None
        if out_of_memory:
            self.limit = max(1, (len(jobs) + 1) // 2)
            free_memory(self.member.engine.device)
        for job in jobs:
            job.begin_again()
        if len(jobs) <= 1:
            return jobs[0] if jobs else None
        half = (len(jobs) + 1) // 2
        self._again.extendleft((deque(jobs[half:]), deque(jobs[:half])))
        return None

    def crowded(self) -> bool:
        """After memory ran out for one more: whether fewer beside it may help; then as many as run may, for a while."""
        self._clean = 0
        free_memory(self.member.engine.device)
        if self.running:
            self.limit = len(self.running)
            return True
        if self.limit > 1 and len(self.buckets) > 1:
            self.limit //= 2
            return True
        return False

    def close(self) -> None:
        """Close the session, which has no jobs any more; it is gone even where that fails."""
        session, self.session, self.bucket, self._roomy = self.session, None, None, 0
        if session is not None:
            session.close()

    def _demand(self, fresh: bool) -> int:
        """Lanes of those that run and of those that may come to them."""
        queue = self._apart if self._apart is not None else self.waiting if fresh else ()
        room = max(0, self.limit - len(self.running)) if self._apart is None else len(self._apart)
        return self.rows + sum(job.lanes for job, _ in zip(queue, range(room), strict=False))

    def _open(self, bucket: Bucket) -> None:
        example = next(self.jobs()).sample
        words = session_words(bucket, self.limits, self.needs.features)
        self.session = self.member.engine.session(**words, like=() if self.usual else example)
        self.bucket, self._roomy = bucket, 0

    def _move(self, bucket: Bucket) -> None:
        """To a session of another size, each as it stands; where that cannot be had, back into one of the old size."""
        old, held = self.bucket, self._lifted()
        assert old is not None  # there is a session
        try:
            self._open(bucket)
            self._settle_in(held)
        except Exception:
            self.close()
            self.running = {place: job for place, (job, _) in enumerate(held)}  # for `fault`, should this fail too
            self._open(old)
            self._settle_in(held)
            raise

    def _lifted(self) -> list[tuple[Job, Sample]]:
        """The jobs that run and their samples as they stand, out of the session, which is closed."""
        session, held = self.session, []
        assert session is not None  # they are in it
        for slot, job in self.running.items():
            log_prob = session.buffers.log_prob
            if log_prob is not None:
                job.keep_log_prob(log_prob[slot])
            held.append((job, session.sample(slot)))
        self.close()
        return held

    def _settle_in(self, held: list[tuple[Job, Sample]]) -> None:
        session = self.session
        assert session is not None  # it was opened for them
        slots = session.admit(*(sample for _, sample in held))
        self.running = {slot: job for slot, (job, _) in zip(slots, held, strict=True)}


def session_words(bucket: Bucket, limits: Limits, features: Sequence[str] = BASE) -> dict[str, Any]:
    """What a session of a size is opened with, by the arguments of `Engine.session`."""
    size = {"slots": bucket.slots, "lanes": bucket.lanes + 1, "steps": limits.steps, "history": HISTORY}
    return {**size, "features": list(features), "output": "uint8"}

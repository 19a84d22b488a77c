"""Who may come: what an ask can be done by, how many steps its deadline allows, and whom it would make late."""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fewstep.serve.asks import Ask
from fewstep.serve.batching.costs import Costs
from fewstep.serve.family import Family, Member
from fewstep.serve.limits import Limits
from fewstep.serve.refusals import RefusedError

SAFETY: Final = 1.25  # times a predicted time, for what a step costs more than its median
HELD: Final = 1.1  # the same of those that were let in before: less, or nobody may come beside a tight one
RESERVE: Final = 2.0  # more of it for each part of the device that those who come meanwhile take
TOGETHER: Final = 4  # samples that share a step, where nobody knows how many will
PATIENCE: Final = 2.0  # seconds after which an ask without a deadline is due, in the order of the queue


@dataclass(frozen=True)
class Load:
    """What one ask has still to take.

    Attributes:
        member: the model, by name.
        left: steps.
        lanes: rows of the network's batch.
        due: when it is to be done, by `time.monotonic`; None for whenever.
        running: it has a slot.
    """

    member: str
    left: int
    lanes: int = 1
    due: float | None = None
    running: bool = False


@dataclass(frozen=True)
class Choice:
    """How an ask is drawn.

    Attributes:
        member: by whom.
        steps: in so many; None for the model's own.
        chosen: its deadline said so.
    """

    member: Member
    steps: int | None
    chosen: bool


class Book:
    """The load of each ask that has not ended, by the number of its ticket. Any thread may use it."""

    def __init__(self) -> None:
        self._loads: dict[int, Load] = {}
        self._came: deque[float] = deque(maxlen=64)
        self._lock = threading.Lock()

    def put(self, number: int, load: Load) -> None:
        """An ask has come, or its load is another."""
        with self._lock:
            self._loads[number] = load

    def came(self, now: float) -> float:
        """Another ask has come; how many do in a second, over the last ones, and over a second at least."""
        with self._lock:
            self._came.append(now)
            return len(self._came) / max(1.0, now - self._came[0])

    def stepped(self, number: int) -> None:
        """It has taken a step in a slot."""
        with self._lock:
            load = self._loads.get(number)
            if load is not None:
                self._loads[number] = replace(load, left=max(0, load.left - 1), running=True)

    def remove(self, number: int) -> None:
        """It has ended."""
        with self._lock:
            self._loads.pop(number, None)

    def loads(self, beside: int | None = None) -> list[Load]:
        """All of them, but for one ticket's."""
        with self._lock:
            return [load for number, load in self._loads.items() if number != beside]


class Admission:
    """Decides by what the steps cost and by what there is to do. It holds no state of its own.

    Asks with a deadline are taken in the order of their deadlines wherever one of them would else be late (`next_up`),
    whatever model they are for. So they are in time if, for each of them, the steps of all that are due before it fit
    into the time until it is due: the demand of a schedule by earliest deadlines (Baruah et al. 1990). A step is
    counted with everybody who shares it, also those who are due later or whenever.

    Args:
        families: by served name.
        costs: of steps.
        limits: of the server: its slots.
    """

    def __init__(self, families: Mapping[str, Family], costs: Costs, limits: Limits) -> None:
        self.families, self.costs, self.limits = families, costs, limits

    def seconds(self, load: Load, others: Sequence[Load]) -> float:
        """Until a load with a deadline is done that comes to these others now, if nobody else comes."""
        return self._until(load, others)[0]

    def check(self, asks: Sequence[Ask], loads: Sequence[Load], now: float | None = None) -> None:
        """Refuse asks that cannot be done in time, or only if another with a deadline is late then.

        Args:
            asks: that come together; where the steps are not said, the fewest count.
            loads: of all that have not ended.
            now: by `time.monotonic`.

        Raises:
            RefusedError: "late", with the seconds after which it may be otherwise; None where it never is.
        """
        now, there = time.monotonic() if now is None else now, list(loads)
        running = {each.member for each in there if each.running}
        current = max((self._step(member, there) for member in running), default=0.0)  # which has begun already
        for ask in asks:
            fewest = self.load(ask, self._fewest(ask))
            if ask.deadline is not None:
                left = ask.deadline - now
                alone = SAFETY * self.seconds(fewest, ())
                if alone > left:
                    raise RefusedError("late", f"its deadline is in {_ms(left)}, and alone it takes {_ms(alone)}")
                needed = current + self.seconds(fewest, there)
                if not self._fits(fewest, there, now + current, SAFETY):
                    said = f"its deadline is in {_ms(left)}, and with what is before it, it takes {_ms(needed)}"
                    raise RefusedError("late", said, retry_after=max(SAFETY * needed - left, alone))
            there.append(fewest)

    def choose(
        self,
        ask: Ask,
        loads: Sequence[Load],
        now: float | None = None,
        *,
        most: int | None = None,
        rate: float = 0.0,
    ) -> Choice:
        """Who draws an ask, and in how many steps: as it says, or the most that its deadline and the load allow.

        Args:
            ask: with steps, a deadline, both or neither.
            loads: of all others that have not ended.
            now: by `time.monotonic`.
            most: steps that were chosen for it before: more are not.
            rate: asks that come in a second. So many more come before it is done, and are due earlier, some of them: it
                is given the more room for them, the more of the device they took if they had as many steps as it.
        """
        family = self.families[ask.model]
        if ask.steps is not None or ask.deadline is None or "plan" in ask.words or "preset" in ask.words:
            return Choice(family.member(ask.steps), ask.steps, False)
        now = time.monotonic() if now is None else now
        choices = [count for count in family.step_choices if most is None or count <= most] or [family.step_choices[0]]
        for steps in reversed(choices):
            load = self.load(ask, steps)
            share = rate * steps * self.costs.step_seconds(load.member, TOGETHER) / TOGETHER
            if self._fits(load, loads, now, SAFETY * (1 + RESERVE * share if most is None else 1)):
                break
        return Choice(family.member(steps), steps, True)

    def load(self, ask: Ask, steps: int | None, lanes: int = 1) -> Load:
        """What an ask is to a device, in so many steps."""
        family = self.families[ask.model]
        count = family.default_steps if steps is None else steps
        return Load(family.member(steps).name, count, lanes, ask.deadline)

    def may_join(self, load: Load, others: Sequence[Load], now: float | None = None) -> bool:
        """Whether it may have a slot now: nobody who runs would be late because of it, who otherwise would not.

        One with a deadline always may: `check` has counted it in when it came.
        """
        if load.due is not None:
            return True
        now = time.monotonic() if now is None else now
        return self._spares(load, [each for each in others if each.running], now, 1.0)

    def urgency(self, arrived: float, load: Load) -> float:
        """When it has to begin, at the latest: who has the least is first in the queue of its model.

        Who says no deadline is due after `PATIENCE`. Longer plans so come before shorter ones of the same age, which
        makes the slowest of all requests faster; and who has waited comes before all who arrive later.
        """
        due = arrived + PATIENCE if load.due is None else load.due
        return due - load.left * self.costs.step_seconds(load.member, self.limits.slots)

    def next_up(self, loads: Sequence[Load], fair: str, now: float | None = None) -> str:
        """Whose model steps next: the one whose turn it is, unless a deadline needs another.

        Args:
            loads: of all that have not ended.
            fair: the model whose turn it is, where no deadline says otherwise.
            now: by `time.monotonic`.
        """
        dues = _by_due(loads)
        if not dues or fair == dues[0].member:
            return fair
        now = time.monotonic() if now is None else now
        if any(each.member == fair for each in dues):
            return dues[0].member
        turn = self._step(fair, loads)
        tight = any(now + turn + SAFETY * needed > each.due for each, needed in self._demand(dues, loads) if each.due)
        return dues[0].member if tight else fair

    def _fewest(self, ask: Ask) -> int | None:
        chosen = ask.steps is None and ask.deadline is not None
        return self.families[ask.model].step_choices[0] if chosen else ask.steps

    def _fits(self, load: Load, others: Sequence[Load], now: float, margin: float) -> bool:
        """Whether it is in time, and nobody late because of it."""
        needed, _ = self._until(load, others)
        own = load.due is None or now + margin * needed <= load.due
        return own and self._spares(load, others, now, HELD)

    def _spares(self, load: Load, others: Sequence[Load], now: float, margin: float) -> bool:
        """Whether nobody else is late because of it, who without it is not."""
        _, ends = self._until(load, others)
        late = [each for each, seconds in ends if each.due is not None and now + margin * seconds > each.due]
        if not late:
            return True
        without = self._demand(_by_due(others), others)
        lost = {id(each) for each, seconds in without if each.due is not None and now + margin * seconds > each.due}
        return all(id(each) in lost for each in late)

    def _until(self, load: Load, others: Sequence[Load]) -> tuple[float, list[tuple[Load, float]]]:
        """Seconds of steps until a load is done, and until each other that has a deadline."""
        found = self._demand(_by_due([load, *others], load), [*others, load])
        own = next(seconds for each, seconds in found if each is load)
        return own + self.costs.image_seconds(load.member), [pair for pair in found if pair[0] is not load]

    def _demand(self, dues: Sequence[Load], loads: Sequence[Load]) -> list[tuple[Load, float]]:
        """Seconds of steps until each of these is done, one after the other, with whoever shares their steps."""
        beside: dict[str, list[int]] = {}  # of each model the lanes that want a first step, a second, ...
        for each in loads:
            lanes = beside.setdefault(each.member, [])
            lanes += [0] * (each.left - len(lanes))
            for place in range(each.left):
                lanes[place] += each.lanes
        slots, total = self.limits.slots, 0.0
        counted: dict[str, list[int]] = {}  # of each model the lanes of those that are due, as far as they came
        found = []
        for each in dues:
            mine = counted.setdefault(each.member, [])
            mine += [0] * (each.left - len(mine))
            for place in range(each.left):
                turns = -(-(mine[place] + each.lanes) // slots) - -(-mine[place] // slots)  # whole steps beyond those
                together = min(beside[each.member][place], max(slots, each.lanes))
                total += turns * self.costs.step_seconds(each.member, together)
                mine[place] += each.lanes
            found.append((each, total))
        return found

    def _step(self, member: str, loads: Sequence[Load]) -> float:
        """Of the step that a model may be in right now."""
        lanes = sum(each.lanes for each in loads if each.member == member and each.running)
        return self.costs.step_seconds(member, lanes)


def _by_due(loads: Sequence[Load], also: Load | None = None) -> list[Load]:
    """Those with a deadline, the earliest first, and one that comes last of those due with it, or of all."""
    dues = [each for each in loads if each.due is not None or each is also]
    return sorted(dues, key=lambda each: (float("inf") if each.due is None else each.due, each is also))


def _ms(seconds: float) -> str:
    return f"{1e3 * max(0.0, seconds):.0f} ms"

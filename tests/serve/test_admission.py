"""Who may come, and in how many steps, in simulated time: no clock of the machine is read."""

import random

import pytest

from fewstep import Classes, Engine, Model, schedules
from fewstep.serve import Ask, Family, Limits
from fewstep.serve.batching.admission import Admission, Book, Load
from fewstep.serve.batching.costs import Costs
from fewstep.serve.family import Member
from fewstep.serve.refusals import RefusedError
from support.served_time import Device, arrivals
from support.serving import FaultyNet, Knobs, tiny_engine

FIXED, EACH = 6e-3, 2.65e-3  # seconds of a step, and of each of its lanes: as the digits' teacher on one core
STUDENTS = (1, 2, 4, 8)


def step_seconds(member: str, lanes: int) -> float:
    """Of the simulated device: a size of the batch costs a straight line."""
    return FIXED + EACH * next(size for size in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if size >= lanes)


def student(steps: int) -> Member:
    model = Model(
        FaultyNet(Knobs()),
        schedule=schedules.linear(),
        shape=(3, 8, 8),
        conditions=Classes(10, null=10),
        defaults={"sampler": "ddim", "steps": steps},
        trained={"sampler": "ddim", "steps": [steps]},
    )
    return Member(f"digits/{steps}", Engine(model, device="cpu", backend="torch"), (steps,))


@pytest.fixture(scope="module")
def family() -> Family:
    return Family("digits", [*map(student, STUDENTS), Member("digits/teacher", tiny_engine(), ())])


def admission_of(family: Family, slots: int = 16) -> Admission:
    """With a table in which every size was measured."""
    costs = Costs()
    for member in family.members:
        for lanes in (1, 2, 3, 4, 6, 8, 12, 16):
            costs.observe(member.name, lanes, step_seconds(member.name, lanes))
    return Admission({family.name: family}, costs, Limits(slots=slots))


def due(milliseconds: float, steps: int | None = None) -> Ask:
    return Ask("digits", 0, {"labels": [1]}, steps=steps, deadline=1e-3 * milliseconds)


def test_an_idle_device_gives_the_most_steps_that_fit_and_says_that_it_chose(family: Family) -> None:
    admission = admission_of(family)
    found = {ms: admission.choose(due(ms), [], now=0.0) for ms in (10, 15, 25, 50, 90, 1000)}
    given = {ms: (choice.steps, choice.member.name, choice.chosen) for ms, choice in found.items()}
    print(given)
    alone = FIXED + EACH
    for ms, (steps, name, chosen) in given.items():
        fitting = [count for count in STUDENTS if 1.25 * count * alone <= 1e-3 * ms]
        assert (steps, name, chosen) == (max(fitting, default=1), f"digits/{max(fitting, default=1)}", True)
    fixed = admission.choose(due(1000, steps=2), [], now=0.0)
    assert (fixed.steps, fixed.chosen) == (2, False)
    plain = admission.choose(Ask("digits", 0), [], now=0.0)
    assert (plain.steps, plain.member.name, plain.chosen) == (None, "digits/4", False)


def test_the_load_lessens_the_steps_and_a_second_look_never_gives_more(family: Family) -> None:
    admission, ask = admission_of(family), due(400)
    given = []
    for count in (0, 4, 8, 16, 32, 64):
        others = [Load("digits/8", 8, due=1.0, running=place < 16) for place in range(count)]
        given.append(admission.choose(ask, others, now=0.0).steps or 0)
    print(given)
    assert given == sorted(given, reverse=True)
    assert given[0] == 8
    assert given[-1] < 8
    assert admission.choose(ask, [], now=0.0, most=2).steps == 2


def test_what_cannot_be_done_in_time_is_refused_with_the_seconds_after_which_it_may(family: Family) -> None:
    admission = admission_of(family)
    admission.check([due(15)], [], now=0.0)
    with pytest.raises(RefusedError) as alone:
        admission.check([due(5)], [], now=0.0)
    assert (alone.value.why, alone.value.retry_after) == ("late", None)  # it would be no better later
    crowd = [Load("digits/1", 1, due=0.09) for _ in range(200)]
    with pytest.raises(RefusedError, match="with what is before it") as late:
        admission.check([due(100)], crowd, now=0.0)
    assert late.value.why == "late"
    assert late.value.retry_after is not None
    assert 0.1 < late.value.retry_after < 5
    admission.check([due(5000)], crowd, now=0.0)
    admission.check([Ask("digits", 0)], crowd, now=0.0)  # without a deadline the bounds of the queue are all
    with pytest.raises(RefusedError):  # all or nothing: together they are too many
        admission.check([due(100)] * 40, [], now=0.0)


def test_nothing_measured_refuses_nobody(family: Family) -> None:
    admission = Admission({"digits": family}, Costs(), Limits())
    admission.check([due(1)], [Load("digits/8", 8)] * 50, now=0.0)
    assert admission.choose(due(1), [], now=0.0).steps == 8


def test_nobody_who_runs_is_made_late(family: Family) -> None:
    admission = admission_of(family)
    tight = Load("digits/8", 8, due=8.5 * (FIXED + EACH), running=True)
    assert not admission.may_join(Load("digits/8", 8), [tight], now=0.0)
    assert admission.may_join(Load("digits/2", 2), [tight], now=0.0)  # another model, which waits for the tight one
    assert admission.next_up([tight, Load("digits/2", 2)], "digits/2", now=0.0) == "digits/8"
    roomy = Load("digits/8", 8, due=1.0, running=True)
    assert admission.next_up([roomy, Load("digits/2", 2)], "digits/2", now=0.0) == "digits/2"
    assert admission.may_join(Load("digits/8", 8), [roomy], now=0.0)
    lost = Load("digits/8", 8, due=0.01, running=True)
    assert admission.may_join(Load("digits/8", 8), [lost], now=0.0)  # it is late either way


def test_the_queue_is_in_the_order_of_the_last_moment_to_begin(family: Family) -> None:
    admission = admission_of(family)
    hurried, relaxed = Load("digits/1", 1, due=0.1), Load("digits/8", 8, due=5.0)
    assert admission.urgency(0.0, hurried) < admission.urgency(0.0, relaxed)
    long, short = Load("digits/8", 8), Load("digits/1", 1)
    assert admission.urgency(0.0, long) < admission.urgency(0.0, short)
    assert admission.urgency(0.0, short) < admission.urgency(1.0, long)  # age wins in the end


def anything(drawn: random.Random, now: float) -> Ask:
    return Ask("digits", 0, deadline=now + drawn.choice((0.1, 0.2, 0.4, 0.8)))


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.3, 0.8, 10.0], ids=["light", "at 80 %", "ten times too much"])
def test_deadlines_hold_in_simulated_time(family: Family, load: float) -> None:
    """The load is in parts of what the device draws of 1 to 8 steps, all numbers alike, 16 at once."""
    admission = admission_of(family)
    capacity = 16 / (sum(STUDENTS) / len(STUDENTS) * step_seconds("", 16))
    jitter = random.Random(1)
    device = Device(admission, lambda member, lanes: step_seconds(member, lanes) * jitter.lognormvariate(0.0, 0.1))
    out = device.serve(arrivals(load * capacity, 600, 2, anything))
    share = 1 - out.late / max(1, len(out.guests))
    print(
        f"load {load:.0%}: {len(out.guests)} let in, {out.refused} refused, {share:.2%} of those let in were in time; "
        f"steps given {out.given}; at most {out.longest_queue} waited; {sum(out.lanes) / len(out.lanes):.1f} lanes"
    )
    assert share >= 0.99
    if load < 1:
        assert out.refused <= 0.01 * 600
    assert out.longest_queue < Limits().queue
    assert set(out.given) <= set(STUDENTS)


def test_a_book_is_what_has_not_ended() -> None:
    book = Book()
    book.put(1, Load("a", 2))
    book.put(2, Load("b", 1))
    book.stepped(1)
    assert book.loads(beside=2) == [Load("a", 1, running=True)]
    book.remove(1)
    book.remove(1)
    book.stepped(7)
    assert book.loads() == [Load("b", 1)]

"""A family: who of several models draws in how many steps, and what is said of it."""

import threading
import warnings

import pytest

from fewstep import Classes, Engine, Model, schedules
from fewstep.errors import ArgumentError
from fewstep.serve import Ask, Family
from fewstep.serve.family import Member
from support.serving import FaultyNet, Knobs, digits_family, tiny_engine


def student(*steps: int, size: int = 8) -> Member:
    """A tiny model that was trained for these numbers of steps."""
    model = Model(
        FaultyNet(Knobs()),
        schedule=schedules.linear(),
        shape=(3, size, size),
        conditions=Classes(10, null=10),
        defaults={"sampler": "ddim", "steps": steps[0]},
        trained={"sampler": "ddim", "steps": list(steps)},
        name=f"{steps[0]}-step",
    )
    return Member(model.name, Engine(model, device="cpu", backend="torch"), tuple(sorted(steps)))


def test_the_student_of_the_next_larger_number_draws_and_the_teacher_beyond_them_all() -> None:
    family = Family("it", [Member("teacher", tiny_engine(), ()), student(8), student(1), student(2, 4)])
    assert [member.name for member in family.members] == ["1-step", "2-step", "8-step", "teacher"]
    assert family.trained_steps == family.step_choices == (1, 2, 4, 8)
    drawn = {steps: family.member(steps).name for steps in (None, 1, 2, 3, 4, 5, 8, 9, 50)}
    print(drawn)
    assert drawn == {
        None: "2-step",
        1: "1-step",
        2: "2-step",
        3: "2-step",
        4: "2-step",
        5: "8-step",
        8: "8-step",
        9: "teacher",
        50: "teacher",
    }
    only_students = Family("it", [student(1), student(2)])
    assert only_students.member(50).name == "2-step"
    assert only_students.default_steps == 2


def test_a_model_alone_has_its_own_defaults_and_powers_of_two_for_a_deadline() -> None:
    family = Family("tiny", [Member("tiny", tiny_engine(), ())])
    assert (family.default_steps, family.trained_steps, family.step_choices) == (4, (), (1, 2, 4))
    assert family.member(None).name == family.member(77).name == "tiny"


def test_remarks_are_told_and_no_warning_of_python_is_raised_in_any_thread() -> None:
    family = Family("it", [student(4)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample, remarks = family.samples(Ask("it", 3, {"labels": [1]}), family.member(3), 3)
        _, silent = family.samples(Ask("it", 3, {"labels": [1]}), family.member(4), 4)
    assert sample.calls == 3
    assert silent == ()
    assert len(remarks) == 1
    assert "was trained for ddim with 4 steps, and is asked for ddim with 3" in remarks[0]
    filters = list(warnings.filters)
    threads = [threading.Thread(target=family.samples, args=(Ask("it", 0), family.members[0], 3)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == filters
    with pytest.warns(UserWarning, match="was trained for ddim with 4 steps"):
        family.first.samples(1, steps=3, labels=[1])  # whoever has a stderr is warned as before


def test_what_is_wrong_with_an_ask_is_named() -> None:
    family = Family("it", [student(4)])
    for words, argument in (({"labels": [11]}, "labels"), ({"labels": [1, 2]}, "labels"), ({"colour": 1}, "colour")):
        with pytest.raises(ArgumentError) as raised:
            family.samples(Ask("it", 0, words), family.members[0], None)
        assert raised.value.argument in (argument, "seeds", "n"), raised.value
    with pytest.raises(ArgumentError, match="members"):
        Family("it", [])
    with pytest.raises(ArgumentError, match=r"\[3, 16, 16\]"):
        Family("it", [student(1), student(2, size=16)])


def test_the_digits_are_a_family_whose_students_are_given_the_guidance_that_was_distilled_into_them() -> None:
    family = digits_family()
    about = family.about()
    print(about)
    assert about["trained_steps"] == [1, 2, 4, 8]
    assert about["default_steps"] == 4
    assert [each["name"].removeprefix("digits/") for each in about["members"]][-1] == "teacher"
    assert not about["reads_prompts"]
    assert about["labels_allowed"] == "integers from 0 to 9"
    for steps in (2, 50):
        sample, remarks = family.samples(
            Ask("digits", 1, {"labels": [3], "guidance_scale": 1.5}), family.member(steps), steps
        )
        halves = "guidance" in sample.condition, sample.lanes
        assert halves == ((True, 1) if steps == 2 else (False, 2))
        assert remarks == ()

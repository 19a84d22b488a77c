"""What a step costs, from what was measured."""

import pytest

from fewstep.serve.batching.costs import Costs, size_of
from fewstep.serve.family import Member
from support.serving import Knobs, tiny_engine


def table(seconds: dict[int, float]) -> Costs:
    costs = Costs()
    for lanes, each in seconds.items():
        costs.observe("it", lanes, each)
    return costs


def test_between_what_was_measured_a_straight_line_and_beyond_it_in_proportion() -> None:
    costs = table({2: 0.010, 4: 0.014, 16: 0.038})
    found = {lanes: costs.step_seconds("it", lanes) for lanes in (0, 1, 2, 3, 4, 5, 8, 9, 16, 32)}
    print(found)
    expected = {0: 0, 1: 0.010, 2: 0.010, 3: 0.012, 4: 0.014, 5: 0.018, 8: 0.022, 9: 0.030, 16: 0.038, 32: 0.076}
    assert found == pytest.approx(expected)  # five lanes run in a batch of six, nine in one of twelve
    assert costs.step_seconds("another", 3) == 0
    assert [size_of(lanes) for lanes in (1, 5, 9, 64, 65)] == [1, 6, 12, 64, 65]


def test_a_stall_changes_nothing_and_a_change_that_lasts_is_followed() -> None:
    costs = Costs()
    for place in range(40):
        costs.observe("it", 4, 9.0 if place % 10 == 3 else 0.01)
    assert costs.step_seconds("it", 4) == 0.01
    for _ in range(20):
        costs.observe("it", 4, 0.03)
    assert costs.step_seconds("it", 4) == 0.03
    costs.observe_image("it", 0.002)
    assert (costs.image_seconds("it"), costs.image_seconds("another")) == (0.002, 0.0)
    assert costs.table() == {"it": {4: 0.03}}


@pytest.mark.parametrize(
    ("running", "wanted", "best"),
    [(0, 1, 1), (8, 9, 8), (8, 10, 8), (8, 12, 12), (7, 9, 8), (9, 11, 11), (0, 40, 16), (3, 3, 3), (5, 2, 5)],
)
def test_no_more_lanes_than_make_each_cheaper(running: int, wanted: int, best: int) -> None:
    """A step of 6 ms and 2.65 ms for each lane of its size, and beyond 16 lanes in proportion."""
    sizes = (1, 2, 3, 4, 6, 8, 12, 16)
    costs = table({size: 0.006 + 0.00265 * size for size in sizes} | {24: 0.0820, 32: 0.1200})
    assert costs.best_lanes("it", running, wanted) == best


def test_where_nothing_was_measured_all_come() -> None:
    assert Costs().best_lanes("it", 0, 9) == 9


def test_a_model_is_measured_at_a_few_sizes_and_made_ready_for_them() -> None:
    knobs, costs = Knobs(), Costs()
    member = Member("it", tiny_engine(knobs), ())
    costs.calibrate(member, slots=6, repeats=2)
    assert list(costs.table()["it"]) == [1, 2, 4, 6]
    assert {shape[0] for shape in knobs.calls} >= {1, 2, 4, 6}
    assert all(seconds > 0 for seconds in costs.table()["it"].values())
    assert costs.image_seconds("it") > 0
    fixed = Member("fixed", tiny_engine(Knobs(), batch_invariant=True, max_batch=4), ())
    costs.calibrate(fixed, slots=6, repeats=2)
    assert len(costs.table()["fixed"]) == 1

"""The combinations that stand for all of them in other tests."""

from itertools import combinations

import pytest

from support.pairwise import pairwise

SIZES = {"two": (3, 4), "three": (3, 3, 2), "four": (2, 2, 2, 2), "uneven": (9, 2, 2), "one value": (1, 5, 2)}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_pair_of_values_occurs(sizes: tuple[int, ...]) -> None:
    values = {f"p{i}": [f"p{i} is {j}" for j in range(size)] for i, size in enumerate(sizes)}
    seen = {pair for choice in pairwise(**values) for pair in combinations(choice, 2)}
    assert seen == {(a, b) for one, other in combinations(values.values(), 2) for a in one for b in other}


def test_there_are_few_and_always_the_same() -> None:
    values = {"a": range(9), "b": range(2), "c": range(2), "d": range(2)}
    assert len(pairwise(**values)) < 9 * 2 * 2 * 2 / 3
    assert pairwise(**values) == pairwise(**values)
    assert len(pairwise(a=range(3), b=range(4))) == 12

"""Few combinations of many parameters: a mistake shows where two values meet, seldom only where three do."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

Pairs = set[tuple[tuple[int, int], ...]]


def pairwise(**values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Combinations, of which every pair of values of two parameters is in one; each covers most of what is left."""

    def pairs(choice: tuple[int, ...]) -> Pairs:
        return set(combinations(enumerate(choice), 2))

    choices = list(product(*(range(len(each)) for each in values.values())))
    left: Pairs = set().union(*map(pairs, choices))
    found = []
    while left:
        best = max(choices, key=lambda choice: len(pairs(choice) & left))
        left -= pairs(best)
        found.append(tuple(each[index] for each, index in zip(values.values(), best, strict=True)))
    return found

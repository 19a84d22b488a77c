"""Few combinations of many parameters: a mistake shows where two values meet, seldom only where three do."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def pairwise(**values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Combinations, of which every pair of values of two parameters is in one; each covers most of what is left."""
    bits: dict[tuple[tuple[int, int], ...], int] = {}  # each pair is a bit, and what a combination covers a number

    def covered(choice: tuple[int, ...]) -> int:
        return sum(1 << bits.setdefault(pair, len(bits)) for pair in combinations(enumerate(choice), 2))

    choices = {choice: covered(choice) for choice in product(*(range(len(each)) for each in values.values()))}
    left, found = (1 << len(bits)) - 1, []
    while left:
        best = max(choices, key=lambda choice: (choices[choice] & left).bit_count())
        left &= ~choices[best]
        found.append(tuple(each[index] for each, index in zip(values.values(), best, strict=True)))
    return found

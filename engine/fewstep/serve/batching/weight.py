"""How much memory the words of an ask hold."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

DEEPEST: Final = 8  # of words within words; what is deeper is no ask


def weight_of(words: Any, depth: int = 0) -> int:
    """Bytes of the tensors, arrays, pictures and texts in the words of an ask; numbers count for nothing."""
    if isinstance(words, str | bytes):
        return len(words)
    own = getattr(words, "nbytes", None)
    if isinstance(own, int):
        return own
    width, height = getattr(words, "width", None), getattr(words, "height", None)
    if isinstance(width, int) and isinstance(height, int):
        return 4 * width * height
    if depth > DEEPEST:
        return 0
    if dataclasses.is_dataclass(words) and not isinstance(words, type):
        return sum(weight_of(getattr(words, each.name), depth + 1) for each in dataclasses.fields(words))
    if isinstance(words, Mapping):
        return sum(weight_of(each, depth + 1) for each in words.values())
    if isinstance(words, list | tuple):
        return sum(weight_of(each, depth + 1) for each in words)
    return 0

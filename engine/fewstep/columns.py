"""Tables as text, within the width of a page."""

from collections.abc import Sequence


def table_lines(columns: Sequence[Sequence[str]], width: int | None, *, keys: int = 1, left: int = 0) -> list[str]:
    """The lines of a table; one that does not fit goes on below itself.

    Args:
        columns: the cells of each, all of one number, the first its heading.
        width: characters of a line; None for as many as it takes. A single column may still be wider.
        keys: the first columns, which say what a line is about: they are repeated in every part.
        left: so many columns from the first are aligned to the left, the others to the right.
    """
    padded = []
    for place, cells in enumerate(columns):
        longest = max(map(len, cells))
        padded.append([cell.ljust(longest) if place < left else cell.rjust(longest) for cell in cells])
    about, others = padded[:keys], padded[keys:]
    parts: list[list[list[str]]] = []
    for column in others:
        if not parts or (width is not None and _extent([*parts[-1], column]) > width):
            parts.append([*about])
        parts[-1].append(column)
    return ["  ".join(cells).rstrip() for part in parts or [about] for cells in zip(*part, strict=True)]


def _extent(columns: Sequence[Sequence[str]]) -> int:
    return sum(len(column[0]) for column in columns) + 2 * (len(columns) - 1)

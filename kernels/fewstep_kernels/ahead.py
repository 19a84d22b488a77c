"""Where the hand-written attention was measured to be right and ahead of torch's own."""

from typing import NamedTuple


class Ahead(NamedTuple):
    """An architecture, a head dim and lengths; the result that shows it."""

    arch: tuple[int, int]
    head_dim: int
    queries: tuple[int, int]  # from, to
    keys: tuple[int, int]
    result: str  # the file in benchmarks/results that shows it
    design: str = ""  # which was measured; the kernel's default unless named


def ahead(table: tuple[Ahead, ...], arch: tuple[int, int], D: int, Lq: int, Lk: int) -> Ahead | None:
    """The entry of a table that covers a shape on an architecture, if there is one."""
    for entry in table:
        lengths = entry.queries[0] <= Lq <= entry.queries[1] and entry.keys[0] <= Lk <= entry.keys[1]
        if (entry.arch, entry.head_dim) == (arch, D) and lengths:
            return entry
    return None

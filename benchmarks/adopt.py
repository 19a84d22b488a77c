"""Writes what results decide into kernels/fewstep_kernels/measured.py: EXACT_WIDTHS and AHEAD.

    python benchmarks/adopt.py                     from all of benchmarks/results
    python benchmarks/adopt.py FOLDER ...          from these, such as benchmarks/results/nvidia-h200
    python benchmarks/adopt.py --check             change nothing, print what would change, and exit with 1 then

EXACT_WIDTHS is golden.json's answer. AHEAD lists the shapes of attention.json where the hand-written kernel, which was
right there, is faster than every backend of torch by more than the spread: its 90th percentile lies below their 10th.
Neighbouring measured shapes become one range: the same keys, or as many keys as queries. A range covers no measured
shape that is not ahead. What no result speaks of stays as it is. Standard library only.
"""

import argparse
import ast
import difflib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MEASURED = Path("kernels/fewstep_kernels/measured.py")
RESULTS = ROOT / "benchmarks/results"
SKIPPED = 77  # the exit code where there is nothing to do
HOPPER = (9, 0)
OURS = "ours"
BACKENDS = ("torch", "flash", "efficient", "cudnn", "math")  # what torch has, as attention.py names them
EMPTY, SAME = "no result decides anything", "as the results have it"


class Shape(NamedTuple):
    """What AHEAD can tell apart on one architecture."""

    head_dim: int
    queries: int
    keys: int

    @property
    def line(self) -> tuple[int, int]:
        """Shapes of one line may share a range: those with the same keys, or with as many keys as queries."""
        return self.head_dim, 0 if self.queries == self.keys else self.keys


Verdicts = dict[Shape, tuple[bool | None, str]]  # whether ours leads there, and the file that tells


class Range(NamedTuple):
    """An entry of AHEAD."""

    arch: tuple[int, int]
    head_dim: int
    queries: tuple[int, int]
    keys: tuple[int, int]
    result: str

    def covers(self, shape: Shape) -> bool:
        """Whether the choice would take ours for this shape."""
        lengths = zip((self.queries, self.keys), (shape.queries, shape.keys), strict=True)
        return self.head_dim == shape.head_dim and all(low <= length <= high for (low, high), length in lengths)

    def code(self) -> str:
        """As it is written."""
        return f'Ahead({self.arch}, {self.head_dim}, {self.queries}, {self.keys}, "{self.result}")'


class Decision(NamedTuple):
    """What results say; None where they are silent.

    Attributes:
        exact_widths: whether a product may have a width that is no multiple of 64.
        ahead: by architecture, for those that were measured.
    """

    exact_widths: bool | None
    ahead: dict[tuple[int, int], list[Range]]

    @property
    def is_empty(self) -> bool:
        """There is no result that decides anything."""
        return self.exact_widths is None and not self.ahead


def decide(folders: Sequence[Path]) -> Decision:
    """What the results in these folders say together: one GPU that disagrees is enough for the careful answer."""
    widths = [about.get("exact_widths") for about, _, _ in reports(folders, "golden.json")]
    known = [each for each in widths if isinstance(each, bool)]
    exact_widths = all(known) if known else None
    verdicts: dict[tuple[int, int], Verdicts] = {}
    for about, rows, name in reports(folders, "attention.json"):
        arch = tuple(about.get("capability") or ())
        if len(arch) != 2 or (arch == HOPPER and about.get("exact_widths", exact_widths) != exact_widths):
            continue  # a dry run, or measured with the other widths
        found = verdicts.setdefault(arch, {})
        for shape, is_ahead in leads(rows).items():
            before, first = found.get(shape, (None, name))
            found[shape] = both(before, is_ahead), first
    return Decision(exact_widths, {arch: ranges(arch, found) for arch, found in verdicts.items()})


def both(one: bool | None, other: bool | None) -> bool | None:
    """Two verdicts together: None is no verdict."""
    return other if one is None else one if other is None else one and other


def reports(folders: Sequence[Path], name: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]], str]]:
    """What each file of that name is about, its rows, and how the tree names it."""
    for folder in folders:
        path = folder / name
        if path.exists():
            report = json.loads(path.read_text())
            yield report["about"], report["rows"], f"{folder.name}/{name}"


def leads(rows: Sequence[dict[str, Any]]) -> dict[Shape, bool | None]:
    """For each shape, whether ours leads in every case that has it; None where there was no time to ask."""
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault(row["case"], {})[row.get("contender", "")] = row
    found: dict[Shape, bool | None] = {}
    for contenders in cases.values():
        any_row = next(iter(contenders.values()))
        shape = Shape(any_row["head_dim"], any_row["queries"], any_row["keys"])
        others = [contenders[name] for name in BACKENDS if name in contenders]
        theirs = [other["us_p10"] for other in others if other["status"] == "measured"]
        ours, verdict = contenders.get(OURS), None
        if ours is not None:
            verdict = ours["status"] == "measured" and bool(theirs) and ours["us_p90"] < min(theirs)
        found[shape] = both(found.get(shape), verdict)
    return found


def ranges(arch: tuple[int, int], verdicts: Verdicts) -> list[Range]:
    """The shapes that are ahead; neighbours on a line in one range, unless it covers one that is not ahead."""
    others = [shape for shape, (is_ahead, _) in verdicts.items() if not is_ahead]  # behind, or never asked
    found: list[Range] = []
    line = None
    for shape in sorted({*verdicts} - {*others}, key=lambda each: (each.line, each)):
        alone = Range(arch, shape.head_dim, (shape.queries,) * 2, (shape.keys,) * 2, verdicts[shape][1])
        wider = widened(found[-1], shape) if shape.line == line else alone
        if wider is not alone and not any(wider.covers(other) for other in others):
            found[-1] = wider
        else:
            found.append(alone)
        line = shape.line
    return found


def widened(entry: Range, shape: Shape) -> Range:
    """A range up to a larger shape of its line."""
    return entry._replace(queries=(entry.queries[0], shape.queries), keys=(entry.keys[0], shape.keys))


def rewritten(text: str, decision: Decision) -> str:
    """measured.py with what was decided, its other lines as they are."""
    nodes = {node.target.id: node for node in ast.parse(text).body if isinstance(node, ast.AnnAssign)}
    values: dict[str, str] = {}
    if decision.exact_widths is not None:
        values["EXACT_WIDTHS"] = str(decision.exact_widths)
    if decision.ahead:
        kept = [each for each in nodes["AHEAD"].value.elts if arch_of(each) not in decision.ahead]
        new = [each.code() for arch in sorted(decision.ahead) for each in decision.ahead[arch]]
        values["AHEAD"] = as_tuple([*(as_written(ast.get_source_segment(text, each)) for each in kept), *new])
    lines = text.splitlines(keepends=True)
    for name, value in values.items():
        at = nodes[name].value
        first, last = at.lineno - 1, at.end_lineno - 1
        before, after = lines[first][: at.col_offset], lines[last][at.end_col_offset :]
        lines[first : last + 1] = [before + value + after] + [""] * (last - first)  # the numbers of the rest stay
    return "".join(lines)


def arch_of(entry: ast.expr) -> tuple[int, int]:
    """Of an entry of AHEAD as it is written: its first argument, or the one of that name."""
    first = next((each.value for each in entry.keywords if each.arg == "arch"), None) or entry.args[0]
    found: tuple[int, int] = ast.literal_eval(first)
    return found


def as_written(source: str | None) -> str:
    """An entry on one line."""
    return ast.unparse(ast.parse(source or "", mode="eval")).replace("'", '"')


def as_tuple(entries: Sequence[str]) -> str:
    """Code of a tuple with an entry a line."""
    return "".join(["(\n", *(f"    {each},\n" for each in entries), ")"]) if entries else "()"


def adopt(folders: Sequence[Path], source: Path, target: Path | None = None) -> str:
    """Write measured.py anew where it differs: into `target`, or where it is. Gives back the difference, or a word."""
    decision = decide(folders)
    if decision.is_empty:
        return EMPTY
    before = source.read_text()
    after = rewritten(before, decision)
    target = source if target is None else target
    if not target.exists() or target.read_text() != after:
        temporary = target.with_name(f".{target.name}")
        temporary.write_text(after)
        temporary.replace(target)
    return difference(before, after)


def difference(before: str, after: str) -> str:
    """Of two texts, for the eye."""
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), "before", "after")
    return "".join(lines) or SAME


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="of results; by default all of benchmarks/results")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 where something would change")
    parser.add_argument("--out", type=Path, help="where to write a report, without the suffix")
    parser.add_argument("--from-out", action="store_true", help="the results are those beside the report")
    parser.add_argument("--dry-run", action="store_true", help="write beside the report and not into the tree")
    options = parser.parse_args(argv)
    folders = [options.out.parent] if options.from_out else options.folders or sorted(RESULTS.glob("*"))
    source = ROOT / MEASURED
    if options.check:
        decision = decide(folders)
        said = EMPTY if decision.is_empty else difference(source.read_text(), rewritten(source.read_text(), decision))
    else:
        said = adopt(folders, source, options.out.parent / MEASURED.name if options.dry_run else None)
    print(f"{MEASURED}: {said}" if said in (EMPTY, SAME) else said)
    if options.out is not None:
        passed, not_run = (0, [EMPTY]) if said == EMPTY else (1, [])
        report = {"checks": {"passed": passed, "failed": 0}, "not_run": not_run, "rows": []}
        options.out.with_suffix(".json").write_text(json.dumps(report) + "\n")
        return SKIPPED if not_run else 0
    return 1 if options.check and said not in (EMPTY, SAME) else 0


if __name__ == "__main__":
    sys.exit(main())

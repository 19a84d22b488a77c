"""Bench a revision beside the tree as it is: the same cases, in processes that take turns, a ratio for each.

    .venv/bin/python tools/bench_base.py REVISION [--rounds 5] [--json FILE] [--bench '--steps 4']

The revision is checked out into a worktree of its own, which is removed again. Each round runs `fewstep bench` of both
trees, the other one first than in the round before; a ratio is that of one round's two processes, and the table has the
median with the least and the largest. Where the images of either tree fail their parity check, nothing is printed.
Networks run on torch unless FEWSTEP_BACKEND names another backend.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BASE, PRESENT = "base", "present"
SUBJECTS = (  # what is benched unless options are given: a network of some size, and one so small that the rest shows
    ("--preset", "cifar10-ddpm", "--sampler", "ddim", "--steps", "4", "--batch", "1,4"),
    ("digits/teacher", "--sampler", "ddim", "--steps", "1,4", "--batch", "1,8"),
)
PRESET = ("--preset", "cifar10-ddpm")  # where options name no network; without one, `fewstep bench` is a matrix
FLAGS = ("--cold", "--no-cold", "--quiet", "-q", "--json")  # options without a value
REPEATS = 5  # of a process
COLUMNS = {"engine, ms": "median_ms", "loop, us a step": "loop_median_us", "set-up, us": "setup_us"}

Case = tuple[str, str, int, int]  # model, sampler, batch, steps
Row = dict[str, Any]  # as `fewstep bench --json` has it


class Refused(Exception):  # noqa: N818
    """Why there is no table."""


@contextmanager
def worktree(root: Path, revision: str) -> Iterator[tuple[Path, str]]:
    """A checkout of a revision and its short name, removed afterwards."""
    found = git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if found.returncode:
        raise Refused(f"revision: got {revision!r}; allowed: a commit, branch or tag of this repository")
    commit = found.stdout.strip()
    with tempfile.TemporaryDirectory(prefix="fewstep-base-") as folder:
        tree = Path(folder) / "tree"
        made = git(root, "worktree", "add", "--detach", str(tree), commit)
        if made.returncode:
            raise Refused(made.stderr.strip())
        try:
            yield tree, commit[:10]
        finally:
            git(root, "worktree", "remove", "--force", str(tree))


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)


def bench(tree: Path, options: Sequence[str]) -> dict[Case, Row]:
    """The engine's rows of one process of a tree, which must pass its own parity check."""
    env = {"FEWSTEP_BACKEND": "torch"} | os.environ  # what both trees have, and no other to share the machine with
    places = os.pathsep.join([str(tree / "engine"), str(tree / "kernels")])
    repeats = [] if "--repeats" in options else ["--repeats", str(REPEATS)]
    command = [sys.executable, "-m", "fewstep.cli", "bench", *options, *repeats, "--no-cold", "--json"]
    done = subprocess.run(command, env=env | {"PYTHONPATH": places}, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"no speed is printed: fewstep bench {' '.join(options)} failed in {tree}\n{done.stderr.strip()}")
    report = json.loads(done.stdout)
    rows = (row for row in report["rows"] if row["contender"] == "engine")
    # a tree of format 1 names its model once
    named = report.get("model", {}).get("name")
    return {(row.get("model", named), row["sampler"], row["batch"], row["steps"]): row for row in rows}


def with_network(options: Sequence[str]) -> list[str]:
    """The options, with `PRESET` before them unless they name a network."""
    before = ["", *options]
    values = [
        previous.startswith("-") and "=" not in previous and previous not in FLAGS
        for previous, _ in zip(before, options, strict=False)
    ]
    named = any(not word.startswith("-") and not value for word, value in zip(options, values, strict=True))
    preset = any(word.partition("=")[0] == "--preset" for word in options)
    return [*options] if named or preset else [*PRESET, *options]


def take_turns(
    trees: dict[str, Path], subjects: Sequence[Sequence[str]], rounds: int
) -> dict[Case, list[dict[str, Row]]]:
    """For each case, the rows of both trees, round by round."""
    found: dict[Case, list[dict[str, Row]]] = {}
    for options in subjects:
        for turn in range(rounds):
            names = list(trees) if turn % 2 == 0 else list(trees)[::-1]
            rows = {name: bench(trees[name], options) for name in names}
            for case in rows[PRESENT]:
                if case in rows[BASE]:
                    found.setdefault(case, []).append({name: rows[name][case] for name in trees})
            print(f"{' '.join(options)}: round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    return found


def compare(rounds: Sequence[dict[str, Row]], column: str) -> dict[str, float] | None:
    """The medians of a column in both trees, and the ratio present / base with its spread; None without numbers."""
    pairs = [(each[BASE][column], each[PRESENT][column]) for each in rounds]
    if not all(base and present for base, present in pairs):
        return None
    ratios = [present / base for base, present in pairs]
    base, present = (statistics.median(each) for each in zip(*pairs, strict=True))
    return {BASE: base, PRESENT: present, "ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def table(found: dict[Case, list[dict[str, Row]]]) -> list[Row]:
    """A row for each case, with `compare` of each column."""
    return [
        {"model": case[0], "sampler": case[1], "batch": case[2], "steps": case[3], "rounds": len(rounds)}
        | {title: compare(rounds, column) for title, column in COLUMNS.items()}
        for case, rounds in found.items()
    ]


def page(rows: Sequence[Row], revision: str) -> Iterator[str]:
    """The table as text."""
    yield f"present / {revision}: the ratio (least..largest), then both medians, base first"
    yield f"{'model':<14}{'sampler':<9}{'batch':>5}{'steps':>6}" + "".join(f"{title:>34}" for title in COLUMNS)
    for row in rows:
        cells = (row[title] for title in COLUMNS)
        texts = (
            "-"
            if each is None
            else f"{each['ratio']:.3f} ({each['min']:.3f}..{each['max']:.3f}) {each[BASE]:.4g} {each[PRESENT]:.4g}"
            for each in cells
        )
        start = f"{row['model']:<14}{row['sampler']:<9}{row['batch']:>5}{row['steps']:>6}"
        yield start + "".join(f"{text:>34}" for text in texts)


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """The command line; `root` stands in for the tree in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="a commit, branch or tag")
    parser.add_argument("--rounds", type=int, default=5, help="how often each tree runs; from 1")
    parser.add_argument("--json", type=Path, help="the rows go there too")
    parser.add_argument("--bench", default="", help="options of `fewstep bench`; unset: a large and a small model")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error(f"--rounds: got {arguments.rounds}; allowed: from 1")
    try:
        with worktree(root, arguments.revision) as (tree, short):
            subjects = [with_network(shlex.split(arguments.bench))] if arguments.bench else SUBJECTS
            rows = table(take_turns({BASE: tree, PRESENT: root}, subjects, arguments.rounds))
    except Refused as why:
        print(f"bench: {why}", file=sys.stderr)
        return 1
    print(*page(rows, short), sep="\n")
    if arguments.json is not None:
        text = json.dumps({"base": short, "rows": rows}, indent=1) + "\n"
        temporary = arguments.json.with_name(f".{arguments.json.name}")
        temporary.write_text(text)
        temporary.replace(arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

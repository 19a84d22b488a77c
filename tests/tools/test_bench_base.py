"""A revision benched beside the tree: ratios by case, nothing on a red gate, no worktree left."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.tree import ROOT, load

tool: Any = load("bench_base", ROOT / "tools" / "bench_base.py")

BENCH = """
import json, sys
failed = {failed}
if failed:
    sys.exit("engine and the eager reference differ by 1.0e-02 of the largest value; no speed is printed")
row = {{"contender": "engine", "sampler": "ddim", "batch": 1, "steps": 4, "median_ms": {ms}, "loop_median_us": 100.0}}
rows = [row | {{"setup_us": None}}, row | {{"contender": "eager"}}]
print(json.dumps({{"model": {{"name": "tiny"}}, "rows": rows, "options": sys.argv[1:]}}))
"""


def commit(root: Path, ms: float, failed: bool = False) -> str:
    """A tree whose `fewstep bench` takes so long, committed."""
    package = root / "engine" / "fewstep"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(BENCH.format(ms=ms, failed=failed))
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "as it was"], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path / "tree")], check=True)
    return tmp_path / "tree"


def worktrees(root: Path) -> int:
    listed = subprocess.run(["git", "-C", str(root), "worktree", "list"], capture_output=True, text=True)
    return len(listed.stdout.splitlines())


def test_each_case_has_a_ratio_and_the_worktree_is_gone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = commit(root, ms=8.0)
    commit(root, ms=6.0)
    out = root.parent / "rows.json"
    assert tool.main([base, "--rounds", "2", "--json", str(out), "--bench=--steps 4"], root) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["model"], row["sampler"], row["batch"], row["steps"], row["rounds"]) == ("tiny", "ddim", 1, 4, 2)
    assert row["engine, ms"] == {"base": 8.0, "present": 6.0, "ratio": 0.75, "min": 0.75, "max": 0.75}
    assert row["loop, us a step"]["ratio"] == 1.0
    assert row["set-up, us"] is None
    assert "0.750 (0.750..0.750) 8 6" in capsys.readouterr().out
    assert worktrees(root) == 1


@pytest.mark.parametrize("red", ["base", "present"])
def test_a_red_gate_in_either_tree_prints_no_speed(red: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = commit(root, ms=8.0, failed=red == "base")
    commit(root, ms=6.0, failed=red == "present")
    assert tool.main([base, "--rounds", "1", "--bench=--steps 4"], root) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no speed is printed" in printed.err
    assert worktrees(root) == 1


def test_a_revision_that_is_none_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit(root, ms=8.0)
    assert tool.main(["nowhere"], root) == 1
    assert "revision: got 'nowhere'; allowed: a commit, branch or tag" in capsys.readouterr().err


def test_the_ratio_is_of_each_rounds_pair() -> None:
    """Medians of both would give 1; in each round the present tree takes twice as long."""
    rounds = [{"base": {"ms": base}, "present": {"ms": 2 * base}} for base in (1.0, 2.0, 4.0)]
    assert tool.compare(rounds, "ms") == {"base": 2.0, "present": 4.0, "ratio": 2.0, "min": 2.0, "max": 2.0}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--steps 4", False),
        ("--no-cold --steps=4 -q", False),
        ("digits --steps 4", True),
        ("--steps 4 digits", True),
        ("--no-cold digits", True),
        ("--preset tiny", True),
        ("--preset=tiny --steps 4", True),
    ],
)
def test_options_without_a_network_are_of_the_larger_one(options: str, named: bool) -> None:
    words = options.split()
    assert tool.with_network(words) == (words if named else ["--preset", "cifar10-ddpm", *words])

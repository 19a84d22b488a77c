"""Every command of docs/evidence.md that runs tests names some that there are."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.tree import ROOT

COMMAND = re.compile(r"`(pytest [^`]+)`")
DEFAULT = ("gpu", "long")  # marks that a command without -m leaves out
COLLECT = """
import json, sys, pytest
class Keeper:
    def pytest_collection_modifyitems(self, items):
        found = {item.nodeid: [mark.name for mark in item.iter_markers()] for item in items}
        json.dump(found, open(sys.argv[1], "w"))
sys.exit(pytest.main(["--collect-only", "-q", "-m", "gpu or not gpu", "-p", "no:cacheprovider"], plugins=[Keeper()]))
"""


def commands() -> list[str]:
    """In the order of the page."""
    return list(dict.fromkeys(COMMAND.findall((ROOT / "docs/evidence.md").read_text())))


def selects(command: str, tests: dict[str, list[str]]) -> list[str]:
    """The tests that a command runs, of those that there are with their marks."""
    _, *words = shlex.split(command)
    paths, options = [], {"-k": "", "-m": ""}
    while words:
        word = words.pop(0)
        if word in options:
            options[word] = words.pop(0)
        elif not word.startswith("-"):
            paths.append(word)
    left_out = () if options["-m"] else DEFAULT
    return [
        name
        for name, marks in tests.items()
        if not set(left_out) & set(marks)
        and any(re.match(re.escape(path) + r"(/|::)", name) for path in paths)
        and (not options["-k"] or matches(options["-k"], name))
    ]


def matches(expression: str, name: str) -> bool:
    """Whether -k takes a test: words are parts of its name, joined by and, or and not."""
    joined = re.sub(
        r"[\w.\[\]-]+",
        lambda word: word[0] if word[0] in ("and", "or", "not") else str(word[0].lower() in name.lower()),
        expression,
    )
    return bool(eval(joined))


@pytest.mark.long
def test_no_command_of_the_page_runs_nothing(tmp_path: Path) -> None:
    found = tmp_path / "tests.json"
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COLLECT, str(found)], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    tests = json.loads(found.read_text())
    empty = [command for command in commands() if not selects(command, tests)]
    print(f"{len(commands())} commands, {len(tests)} tests")
    assert not empty


TESTS = {
    "tests/run/test_a.py::test_one[cpu]": [],
    "tests/run/test_a.py::test_two": ["long"],
    "tests/b/test_c.py::test_one": [],
}


@pytest.mark.parametrize(
    ("command", "count"),
    [
        ("pytest tests/run", 1),
        ('pytest -m "long or not long" tests/run/test_a.py -s', 2),
        ("pytest tests/run/test_a.py -k two", 0),
        ('pytest tests/run tests/b -k "one and not cpu"', 1),
        ("pytest tests/run/test_none.py", 0),
    ],
)
def test_a_command_selects_as_pytest_does(command: str, count: int) -> None:
    assert len(selects(command, TESTS)) == count

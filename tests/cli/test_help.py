"""--help: it names every option whole in any terminal, says every default, and its examples are commands that run."""

import re
import shlex
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from fewstep.cli.app import app
from fewstep.cli.page import command_lines, wrapped
from fewstep.cli.training_options import distill_defaults, train_defaults
from fewstep.columns import table_lines
from fewstep.train import DistillConfig, TrainConfig
from support.cli_case import Run, parse_only
from support.tree import ROOT

VERBS: dict[str, Any] = dict(getattr(get_command(app), "commands"))  # noqa: B009
# They say what they are for by being there.
IF_GIVEN = {"image", "strength", "mask", "config", "size", "source", "out", "beside", "path", "help", "model", "models"}
IF_GIVEN |= {"classifier", "held_out", "teacher"}
BLOCK = re.compile(r"^```\w*\n(.*?)^```$|((?:^    .*\n)+)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(rf"^ *(fewstep (?:{'|'.join(VERBS)})\b(?:[^\n\\]|\\\n)*)", re.MULTILINE)


def examples(text: str) -> list[str]:
    """The commands of an end of a page of help."""
    return [line.strip() for line in text.splitlines() if line.startswith("  fewstep")]


def parse(line: str) -> None:
    """Read a command line as its verb does."""
    program, *words = shlex.split(line, comments=True)
    assert program == "fewstep"
    parse_only(words)


def long_options(verb: str) -> set[str]:
    return {name for param in VERBS[verb].params for name in (*param.opts, *param.secondary_opts) if "--" in name}


@pytest.mark.parametrize(
    ("verb", "columns"), [*product(VERBS, (60, 80)), ("generate", 40), ("train", 200)], ids=lambda value: str(value)
)
def test_every_option_is_named_whole_in_any_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, verb: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    page = run(verb, "--help").out
    assert "…" not in page
    assert all(len(line) <= columns or len(line.split()) == 1 for line in page.splitlines())
    assert long_options(verb) <= set(re.findall(r"--[\w-]+", page))
    if columns < 80:
        words = {word for param in VERBS[verb].params for word in (getattr(param, "help", None) or "").split()}
        assert {word for word in words if len(word) < columns - 8} <= set(page.split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_says_its_default(run: Run, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    page = run(verb, "--help").out
    for param in VERBS[verb].params:
        if param.required or param.name in IF_GIVEN or (param.default is False and not param.secondary_opts):
            continue
        line = next(line for line in page.splitlines() if re.search(rf"(?<!\S){max(param.opts, key=len)}\b", line))
        assert re.search(r"[Dd]efault: \S", line), line


@pytest.mark.parametrize(
    ("verb", "option", "default"),
    [
        ("train", "steps", TrainConfig().steps),
        ("train", "prediction", TrainConfig().prediction),
        ("train", "schedule", TrainConfig().schedule["name"]),
        ("train", "channels", "16,16,48,96"),
        ("train", "layers", 1),
        ("train", "learned-range", "fixed"),
        ("train", "learning-rate", TrainConfig().learning_rate),
        ("distill", "steps", DistillConfig().steps),
        ("distill", "guidance", "1,2"),
        ("distill", "method", DistillConfig().method),
        ("distill", "learning-rate", DistillConfig().learning_rate),
        ("distill", "checkpoint-every", DistillConfig().checkpoint_every),
    ],
)
def test_a_default_is_that_of_the_settings(
    run: Run, monkeypatch: pytest.MonkeyPatch, verb: str, option: str, default: object
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert re.search(rf"--{option}\b.*Default: {default}\. ", run(verb, "--help").out)


def test_every_setting_with_an_option_has_its_default() -> None:
    for verb, defaults, config in (
        ("train", train_defaults(), TrainConfig()),
        ("distill", distill_defaults(), DistillConfig()),
    ):
        options = {param.name for param in VERBS[verb].params}
        assert {name for name, value in vars(config).items() if name in options and value is not None} <= set(defaults)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_examples_of_the_help_are_commands(verb: str) -> None:
    command = VERBS[verb] if verb else get_command(app)
    lines = examples(command.epilog)
    assert lines
    for line in lines:
        if "--help" not in line:
            parse(line)


@pytest.mark.slow
def test_examples_of_the_help_run_as_they_stand(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for verb in ("", "generate") for line in examples((VERBS[verb] if verb else get_command(app)).epilog)]
    assert "fewstep generate digits --n 4" in lines
    for line in lines:
        if line.startswith("fewstep generate") and not {".models", "--help"} & {*line.replace("/", " ").split()}:
            ran = run(*shlex.split(line)[1:])
            assert (ran.code, ran.err) == (0, ""), line


def documented() -> Iterator[tuple[str, str]]:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md"):
        blocks = "\n".join(fenced or indented for fenced, indented in BLOCK.findall(page.read_text()))
        # A sentence may leave out where the result goes.
        inline = "\n".join(
            f"{line} --out out"
            for line in re.findall(r"`(fewstep (?:train|distill|evaluate|generate) [^`\n]+)`", page.read_text())
        )
        for line in COMMAND.findall(f"{blocks}\n{inline}"):
            yield page.name, re.split(r" {4,}(?![ -])", line.replace("\\\n", " "))[0]


def test_commands_of_the_documentation_are_commands() -> None:
    found = list(documented())
    assert {"quickstart.md", "training.md", "evidence.md"} <= {page for page, _ in found}
    for _, line in found:
        parse(re.sub(r"  +", " ", line))


def test_a_command_that_is_broken_is_the_same_to_a_shell() -> None:
    line = "fewstep generate 'a model' --labels 1,2 --image \"b c.png\" --strength 0.5 --no-singles -q --out out/x.png"
    for columns in (20, 40, 60, 200):
        lines = command_lines(line, columns, indent="  ")
        assert all(part.endswith(" \\") for part in lines[:-1])
        assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(line)
    assert len(command_lines(line, 200)) == 1
    assert command_lines("fewstep info --out some/where", 16) == ["fewstep info \\", "    --out some/where"]


def test_text_is_broken_between_words() -> None:
    text = "some words, and a/path/that/is/longer/than/a/line"
    assert wrapped(text, 20) == ["some words, and", "  a/path/that/is/longer/than/a/line"]
    assert wrapped(text, None) == [text]
    assert wrapped("fewstep 0.1.0, torch and others", 20) == ["fewstep 0.1.0, torch", "  and others"]


def test_a_table_that_is_too_wide_goes_on_below_itself() -> None:
    columns = [["case", "a", "bb"], ["x", "1", "2"], ["yyyy", "3", "4"], ["z", "5", "66"]]
    assert table_lines(columns, None) == ["case  x  yyyy   z", "   a  1     3   5", "  bb  2     4  66"]
    assert table_lines(columns, 13, left=1) == [
        *("case  x  yyyy", "a     1     3", "bb    2     4"),
        *("case   z", "a      5", "bb    66"),
    ]

"""Streams that are closed, full or narrow, and one JSON object whatever happens."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.cli import main
from fewstep.cli.shared import emit
from fewstep.cli.training import tell
from support.cli_case import Run, fails_with

COMMANDS = [
    ("--help",),
    ("--version",),
    ("generate", "--help"),
    ("info", "digits/1-step"),
    ("info", "digits/1-step", "--json"),
    ("info", "nowhere", "--json"),
]


def code(command: tuple[str, ...]) -> int:
    return 2 if "nowhere" in command else 0


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")], ids=" and ".join)
def test_a_stream_that_is_closed_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    closed: tuple[str, ...],
) -> None:
    with monkeypatch.context() as without:
        for name in closed:
            without.setattr(sys, name, None)  # as Python has it after `>&-`
        assert main(list(command)) == code(command)
        assert [name for name in ("stdout", "stderr") if getattr(sys, name) is None] == list(closed)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert captured.err.count("\n") == (code(command) == 2 and "stderr" not in closed)
    assert bool(captured.out) == ("stdout" not in closed and (code(command) == 0 or "--json" in command))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_reader_that_is_gone_and_a_disk_that_is_full_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for target, ended, said in (
        (writer, 1, ""),
        (os.open("/dev/full", os.O_WRONLY), 2, "error: stdout: cannot be written: no space left on device\n"),
    ):
        stream = io.TextIOWrapper(io.FileIO(target, "w"), write_through=False)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(sys, "stdout", stream)
            found = main(list(command))
        stream.close()
        err = capsys.readouterr().err
        if code(command):
            assert found == 2
            assert err.startswith("error: nowhere: no such folder")
            assert err.count("\n") == 1
        else:
            assert (found, err) == (ended, said)


@pytest.mark.slow
def test_the_interpreter_ends_without_a_word_of_its_own() -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    line = f"{sys.executable} -m fewstep.cli generate --help 2>&1 >&- | cat; echo ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": paths}
    ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, check=True)
    assert (ran.stdout, ran.stderr) == ("0\n", "")


def test_a_stream_of_few_letters_gets_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr("fewstep.cli.info._installation", lambda: {"cpu": "3 µs ± 1", "name": "\udcff"})
    assert main(["info"]) == 0
    assert b"3 ?s ? 1" in raw.getvalue()
    assert main(["--help"]) == 0
    assert b"+- Options ---" in raw.getvalue()
    sys.stdout.close()


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC], ids=["its reader is gone", "its disk is full"])
def test_a_long_run_outlives_its_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    class Broken(io.StringIO):
        write = fails_with(number)

    monkeypatch.setattr(sys, "stderr", Broken())
    tell("step 1/2")
    assert main(["info", "nowhere"]) == 2
    assert main(["info", "nowhere", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": float("nan"), "b": [float("inf"), {"c": -float("inf")}], "path": Path("x"), "text": "\udcff"})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, {"c": None}], "path": "x", "text": "\udcff"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", ""], "argument"),
        (["generate", "digits", "--out", ""], "--out"),
        (["generate", "digits", "--image="], "--image"),
        (["train", "--data", " ", "--out", "x"], "--data"),
        (["distill", "digits/teacher", "--out="], "--out"),
        (["bench", "digits", "--sampler", ""], "--sampler"),
    ],
    ids=["model", "out", "image", "data", "its folder", "sampler"],
)
def test_an_empty_argument_is_not_taken_for_none(run: Run, arguments: list[str], named: str) -> None:
    ran = run(*arguments)
    assert ran.error.startswith(f"{named}: got ")
    assert ran.code == 2

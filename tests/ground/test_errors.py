"""What every error of ours promises: one printable line, whatever it quotes."""

import errno
import pickle

import numpy as np
import pytest
import torch

from fewstep.errors import (
    ArgumentError,
    FewstepError,
    ModelError,
    OutputError,
    UntrainedPlanWarning,
    is_out_of_memory,
    printable,
    reason_of,
    shown,
    some_of,
)


def deep() -> object:
    value: object = 0
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a/b c.json: wrong", "a/b c.json: wrong"),
        ("a\nb", r"a\nb"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\0b\x85c", r"a\x00b\x85c"),
        ("odd\udcff.png", r"odd\udcff.png"),
        ("one\u2028two\u202ethree", r"one\u2028two\u202ethree"),
        ("é 漢 😀", "é 漢 😀"),
    ],
    ids=["plain", "two lines", "escape", "NUL", "file name that is no text", "separators", "letters"],
)
def test_a_message_is_one_line_for_any_terminal(text: str, line: str) -> None:
    assert printable(text) == line
    for kind in (FewstepError, ModelError, OutputError):
        assert str(kind(text)) == line
    assert str(ArgumentError("argument", text + " x", "b")) == f"argument: got {line} x; allowed: b"
    line.encode()


@pytest.mark.parametrize(
    "value", [deep(), 1 << 100_000, "x" * 10**6, "x " * 10**6], ids=["deep", "digits", "word", "words"]
)
def test_any_value_can_be_quoted(value: object) -> None:
    assert len(shown(value)) <= 80
    message = str(ArgumentError("a", value, "b"))
    assert message.startswith("a: got ")
    assert len(message) < 620


def test_names_beyond_the_most_are_counted() -> None:
    assert [some_of(names, 2) for names in ((), ("a",), ("a", "b"), ("a", "b", "c"))] == [
        "",
        "a",
        "a, b",
        "a, b and 1 more",
    ]
    assert some_of(["a"] * 5000, 1) == "a and 4,999 more"


def test_a_reason_is_one_line_and_never_empty() -> None:
    assert reason_of(OSError(errno.ENOSPC, "No space left")) == "No space left"
    assert reason_of(ValueError("a\n  b")) == "a b"
    assert reason_of(ValueError()) == "ValueError"
    assert len(reason_of(ValueError("x" * 1000))) == 120


@pytest.mark.parametrize(
    "error",
    [
        ModelError("a: b"),
        OutputError("a: b"),
        ArgumentError("a", 3, "b"),
        ArgumentError("a", "two words", "b", " (in Python)"),
        UntrainedPlanWarning("a"),
        UntrainedPlanWarning("a", "b", {"steps": "2 or 4"}),
    ],
    ids=lambda error: f"{type(error).__name__}: {error}",
)
def test_an_error_survives_a_process(error: Exception) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


def test_a_value_that_no_process_takes_survives_in_words() -> None:
    class Local:
        def __repr__(self) -> str:
            return "Local of (two words)"

    for value in (lambda: 0, deep(), Local()):
        error = ArgumentError("a", value, "b")
        found = pickle.loads(pickle.dumps(error))
        assert (str(found), found.argument, found.allowed) == (str(error), "a", "b")
        assert isinstance(found.value, str)


def test_running_out_of_memory_is_told_from_other_failures() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(1 << 60, np.uint8)
    for error in (of_torch.value, of_numpy.value, torch.OutOfMemoryError("CUDA"), OSError(errno.ENOMEM, "no")):
        assert is_out_of_memory(error)
    for error in (
        RuntimeError("shapes differ"),
        OSError(errno.ENOSPC, "full"),
        ValueError("out of memory"),
        KeyError(),
    ):
        assert not is_out_of_memory(error)

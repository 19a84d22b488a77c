"""JSON that was made to hurt: it takes time in proportion to its length, and what it holds can be printed."""

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep.errors import ModelError
from fewstep.fields import MAX_JSON_BYTES, parse_json, read_json

CPU_SECONDS = 5


def refused_in_time(action: Callable[[], object]) -> int:
    """0 if `action` raises ModelError, in a process that may take 5 s; else 1, or the signal that ended it."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        try:
            action()
        except ModelError:
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


PIECES = {
    "one name": b'"a": 1, ',
    "one name, in objects": b'"a": {"a": 1}, ',
    "two names": b'"a": 1, "b": 1, ',
    "opened": b'{"a":',
    "lists": b'"a": [',
    "digits": b"9",
    "escapes": b'"\\ud800": 1, ',
}


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_four_megabytes_of_anything_are_refused_in_time(piece: bytes) -> None:
    data = b"{" + piece * ((MAX_JSON_BYTES - 20) // len(piece)) + b'"z": 1}'
    assert refused_in_time(lambda: parse_json(data, "file")) == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"name": "\\ud800"}', r"a text holds '\ud800', half of a surrogate pair"),
        (b'{"a": [["\\udfff"]]}', r"a text holds '\udfff', half of a surrogate pair"),
        (b'{"\\ud800": 1}', "half of a surrogate pair"),
        (b'{"name": "\xed\xa0\x80"}', "is not valid JSON: 'utf-8' codec can't decode"),
        (json.dumps({"a": 1}).encode("utf-16"), "is not valid JSON: 'utf-8' codec can't decode"),
    ],
    ids=["in a text", "in a list", "in a name", "as bytes", "UTF-16"],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: is not valid JSON: ")
    assert reason in str(caught.value)


def test_letters_of_all_kinds_are_read() -> None:
    assert parse_json('\ufeff{"é": "\\ud83d\\ude00 漢"}'.encode(), "file") == {"é": "😀 漢"}

"""`fewstep serve`: what it refuses before it opens a model, and what it opens."""

import builtins
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from fewstep.cli.serve import bounds, named_models
from fewstep.errors import ArgumentError
from fewstep.serve.limits import Limits
from support.cli_case import Run


def test_models_have_the_names_they_are_given(tmp_path: Path) -> None:
    folder = tmp_path / "a=b"
    folder.mkdir()
    assert named_models(["digits"]) == {"digits": "digits"}
    assert named_models(["digits/teacher", "fox=digits", str(folder)]) == {
        "digits/teacher": "digits/teacher",
        "fox": "digits",
        "a=b": str(folder),
    }
    for wrong in (["digits", "digits"], ["=digits"], ["fox="]):
        with pytest.raises(ArgumentError, match="models"):
            named_models(wrong)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--admin"], "admin: got True; allowed: only with a key"),
        (["--log-level", "loud"], "--log-level: got 'loud'; allowed: debug, info, warning or error"),
        (["--slots", "0"], "slots: got 0"),
        (["--queue", "0"], "queue: got 0"),
        (["--drain-timeout", "-1"], "--drain-timeout: got -1.0"),
        (["--limit", "body_byte=1"], "limit: got 'body_byte=1'; allowed: NAME=VALUE with one of"),
        (["--limit", "body_bytes=x"], "limit: got 'body_bytes=x'; allowed: body_bytes= with an integer above 0"),
        (["--limit", "body_seconds=inf"], "allowed: body_seconds= with a number above 0, such as 60"),
        (["--port", "70000"], "port: got 70000"),
        (["--lora-folder", "nowhere"], "--lora-folder: got 'nowhere'; allowed: a path that is there"),
        (["--api-key-file", "nowhere"], "--api-key-file: got 'nowhere'"),
        (["--dtype", "int8"], "dtype: got 'int8'"),
        (["a=digits", "a=digits"], "models: got 'a=digits'; allowed: another name"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_a_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.delenv("FEWSTEP_API_KEY", raising=False)
    ran = run("serve", *arguments)
    assert ran.code == 2
    assert said in ran.error


def test_a_port_in_use_is_said_in_a_line(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = run("serve", "--port", taken.getsockname()[1])
        assert ran.code == 2
        assert "something listens there" in ran.error


def test_a_network_without_a_key_is_warned_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEWSTEP_API_KEY", raising=False)
    ran = run("serve", "--host", "0.0.0.0", "--dtype", "int8")
    assert "warning: 0.0.0.0 is open to other machines, and there is no key" in ran.err
    monkeypatch.setenv("FEWSTEP_API_KEY", "k")
    assert "warning" not in run("serve", "--host", "0.0.0.0", "--dtype", "int8").err


def test_an_empty_key_is_no_key(run: Run, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n")
    assert "a file with a key in its first line" in run("serve", "--api-key-file", tmp_path / "key").error


def test_without_its_packages_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("fewstep.serve"):
            raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert run("serve").error == "serving needs further packages: pip install 'fewstep[serve]'"


def test_bounds_are_those_of_the_settings() -> None:
    found = bounds(["body_bytes=1000", "body_seconds=0.5", "body_bytes=2000"], Limits())
    assert found == {"body_bytes": 2000, "body_seconds": 0.5}
    assert bounds([], Limits()) == {}


@pytest.mark.slow
def test_a_model_that_cannot_be_opened_ends_it_in_a_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    for arguments, said in (
        (["no/such/folder"], "no/such/folder"),
        (["digits", "--warmup", tmp_path / "manifest.json"], "manifest.json"),
    ):
        ran = run("serve", *arguments, "--port", 0, "--backend", "torch")
        *log, last = ran.err.splitlines()
        assert (ran.code, ran.out) == (2, "")
        assert last.startswith("error: ")
        assert said in last
        assert [json.loads(line)["event"] for line in log][:1] == ["listening"]

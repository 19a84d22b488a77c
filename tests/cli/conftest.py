"""Fixtures of the command-line tests: a terminal without settings, a way to run it, two models."""

from dataclasses import replace
from pathlib import Path

import pytest

from fewstep.cli import main
from support.cli_case import CONFIG, Ran, Run, tiny_model


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FEWSTEP_TRACEBACK", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", None)  # which it read once, when it was imported


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Ran:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def heights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One channel, a continuous label from 1 to 100."""
    labels = {"kind": "continuous", "min": 1.0, "max": 100.0}
    config = replace(CONFIG, label_range=(1.0, 100.0))
    return tiny_model(tmp_path_factory.mktemp("models") / "heights", config, labels=labels)


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three channels, ten classes and a null class."""
    labels = {"kind": "classes", "count": 10, "null": 10}
    config = replace(CONFIG, in_channels=3, out_channels=3, num_classes=11)
    folder = tmp_path_factory.mktemp("models") / "colours"
    return tiny_model(folder, config, labels=labels, shape=(3, 16, 16))

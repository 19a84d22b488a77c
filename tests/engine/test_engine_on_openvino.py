"""The engine's own tests, of which none may know what executes the network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = ("engine", "log_prob", "sequences", "not_finite", "results", "lora", "numbers", "float64")


@pytest.mark.long
def test_engines_tests_hold_on_openvino() -> None:
    """In one process, whose start takes longer than some of the files."""
    pytest.importorskip("openvino")
    files = [str(HERE / f"test_{name}.py") for name in FILES]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    subprocess.run(tests, env=environment | {"FEWSTEP_BACKEND": "openvino"}, cwd=HERE.parents[1], check=True)

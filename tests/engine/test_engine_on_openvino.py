"""The engine's own tests, of which none may know what executes the network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = ("engine", "log_prob", "sequences", "not_finite", "results", "lora", "numbers", "float64")


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_engines_tests_hold_on_openvino(name: str) -> None:
    pytest.importorskip("openvino")
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / f"test_{name}.py")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    subprocess.run(tests, env=environment | {"FEWSTEP_BACKEND": "openvino"}, cwd=HERE.parents[1], check=True)

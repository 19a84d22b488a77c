"""`pytest benchmarks/`: what pytest-benchmark times here, and the machine that it writes beside the times."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the scripts of this folder import their neighbours by name

import torch
from measure import default_device, describe, flusher


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The first GPU, or the CPU."""
    return default_device()


@pytest.fixture(scope="session")
def flush(device: torch.device) -> Callable[[], object]:
    """What empties the last-level cache of an op's operands."""
    return flusher(device)


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Hardware, versions, threads and load as all benchmarks here tell them."""
    machine_info["fewstep"] = describe(default_device())

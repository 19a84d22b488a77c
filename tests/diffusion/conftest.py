"""What comparisons with other programs need around them."""

from collections.abc import Iterator

import pytest
import torch

from support.diffusers_loops import widened


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """diffusers' schedulers, and what torch makes of Python's numbers, in float64."""
    widened(monkeypatch)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)

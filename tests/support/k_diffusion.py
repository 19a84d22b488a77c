"""The samplers of k-diffusion, loaded without the dozen packages that the rest of it imports."""

import importlib
import sys
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType
from unittest.mock import MagicMock, patch

import pytest
import scipy.integrate  # noqa: F401 (imported here, so that what is imported below stays imported)
import tqdm.auto  # noqa: F401

UNUSED = ("torchdiffeq", "torchsde", "torchvision", "torchvision.transforms")


def samplers() -> ModuleType:
    """`k_diffusion.sampling`, as shipped."""
    try:
        folder = distribution("k-diffusion").locate_file("k_diffusion")
    except PackageNotFoundError:
        pytest.fail("these tests need k-diffusion's samplers: pip install --no-deps k-diffusion==0.1.1.post1")
    package = ModuleType("k_diffusion")  # its own __init__ would import all of it
    package.__path__ = [str(folder)]
    with patch.dict(sys.modules, {"k_diffusion": package} | {name: MagicMock() for name in UNUSED}):
        return importlib.import_module("k_diffusion.sampling")

"""What every test stands on: the same numbers each time, no screen, no network, no green run of nothing."""

import atexit
import os
import shutil
import tempfile

import pytest
import torch
from hypothesis import settings

os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("FEWSTEP_BACKEND", "torch")  # what "auto" means: others are named where they are tested
if "PYTEST_XDIST_WORKER" not in os.environ:  # which has it of the process that started it
    os.environ["FEWSTEP_CACHE"] = tempfile.mkdtemp(prefix="fewstep-tests-")  # not the user's
    atexit.register(shutil.rmtree, os.environ["FEWSTEP_CACHE"], ignore_errors=True)

torch.set_num_threads(1)  # a sum's rounding depends on the number of threads; pytest-xdist fills the cores
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which the next call does
    # Fills torch.empty with NaN, so that what nobody wrote shows. Not on a GPU: there it also selects
    # other algorithms, and promises about bits must hold for those that users get.
    torch.use_deterministic_algorithms(True)

settings.register_profile("fewstep", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("fewstep")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Once on a CPU, and once on a GPU by `make gpu`."""
    return str(request.param)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A session whose every test was skipped has proven nothing: it fails as an empty one does."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or session.config.option.collectonly:  # a worker of pytest-xdist, or a listing
        return
    if exitstatus == pytest.ExitCode.OK and not reporter.stats.keys() & {"passed", "xfailed"}:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

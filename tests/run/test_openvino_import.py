"""OpenVINO as it is imported: it reports to nobody, and where it is missing or broken the reason is one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.run.backends.backend import UnreadyError
from fewstep.run.backends.openvino_import import TELEMETRY, openvino_module
from support.sources import FEWSTEP, KERNELS

SILENT = """
import sys
from pathlib import Path
from fewstep.run.backends.openvino_import import openvino_module
openvino = openvino_module()
import torch
openvino.convert_model(torch.nn.Linear(2, 2), example_input=torch.zeros(1, 2))
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__, "openvino_telemetry" in sys.modules, list(Path.home().iterdir()))
"""


@pytest.mark.slow
def test_no_telemetry_is_loaded_and_nothing_is_written_at_home(tmp_path: Path) -> None:
    pytest.importorskip("openvino_telemetry")
    path = os.pathsep.join([str(FEWSTEP.parent), str(KERNELS.parent)])
    env = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    env |= {"PYTHONPATH": path, "HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", SILENT], env=env, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "openvino.tools.ovc.telemetry_stub False []\n"), run.stderr


@pytest.fixture
def not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO as in a new process; afterwards it is in this one what it was."""
    monkeypatch.setitem(sys.modules, "openvino", sys)
    monkeypatch.delitem(sys.modules, "openvino")


@pytest.mark.usefixtures("not_imported")
def test_a_user_who_has_its_telemetry_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, TELEMETRY, sys)
    (tmp_path / "openvino.py").write_text("import openvino_telemetry as has\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert openvino_module().has is sys
    assert sys.modules[TELEMETRY] is sys


@pytest.mark.usefixtures("not_imported")
@pytest.mark.parametrize(
    ("source", "why"),
    [
        (None, "not installed (import of openvino halted; None in sys.modules)"),
        ("raise OSError('libopenvino.so: not\\na file')", "cannot be imported (libopenvino.so: not a file)"),
        ("import a_part_that_is_missing", "cannot be imported (No module named 'a_part_that_is_missing')"),
    ],
    ids=["missing", "broken", "in part"],
)
def test_what_is_missing_or_broken_is_said_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str | None, why: str
) -> None:
    if source is None:
        monkeypatch.setitem(sys.modules, "openvino", None)
    else:
        (tmp_path / "openvino.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnreadyError) as caught:
        openvino_module()
    assert str(caught.value).startswith(why)
    assert str(caught.value).endswith("; pip install 'fewstep[cpu]' installs it")
    assert "\n" not in str(caught.value)
    assert TELEMETRY not in sys.modules or sys.modules[TELEMETRY] is not None

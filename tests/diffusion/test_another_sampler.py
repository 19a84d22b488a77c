"""A sampler is one file and one line in SAMPLERS: with another one in both, what depends on the list still holds."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.tree import ROOT

SAMPLERS = Path("engine/fewstep/diffusion/samplers/__init__.py")
DUMMY = '''"""Half of DDIM's noise, for a test."""

from dataclasses import replace

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike
from fewstep.diffusion.samplers.ddim import ddim


def dummy(levels: Levels, prediction: str = "eps", clip: ClipLike = None) -> Plan:
    """DDIM at eta = 0.5."""
    return replace(ddim(levels, prediction, eta=0.5, clip=clip), sampler="dummy")
'''
DEPENDS = ("diffusion/test_plan.py", "engine/test_engine_errors.py", "tree/test_rooms.py", "cost/test_report.py")
QUICK = "every_sampler or follow or cannot or circle or left_out"  # of those, what looks at the list
LOOK = """
import fewstep
from fewstep.cli import main
engine = fewstep.Engine.from_pretrained("digits", steps=4, device="cpu")
assert engine.sample(labels=[3], steps=4, sampler="dummy", seeds=0).images.isfinite().all()
main(["generate", "--help"])
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose samplers are one more."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("engine", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("kernels", "docs", "csrc", "pyproject.toml"):
        (copy / name).symlink_to(ROOT / name)
    listed = copy / SAMPLERS
    (listed.parent / "dummy.py").write_text(DUMMY)
    text = listed.read_text()
    euler = "from fewstep.diffusion.samplers.euler"
    text = text.replace(euler, f"from fewstep.diffusion.samplers.dummy import dummy\n{euler}")
    listed.write_text(
        text.replace('    "lcm": Sampler(', '    "dummy": Sampler(dummy, "for a test"),\n    "lcm": Sampler(')
    )
    return copy


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join(str(tree / name) for name in ("engine", "kernels", "tests"))
    env = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=tree, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_it_samples_and_the_help_names_it(tree: Path) -> None:
    done = run(tree, "-c", LOOK)
    assert done.returncode == 0, done.stderr
    assert "dummy" in done.stdout


@pytest.mark.long
def test_the_tests_that_depend_on_the_list_hold(tree: Path) -> None:
    files = [f"tests/{name}" for name in DEPENDS]
    done = run(tree, "-m", "pytest", "-v", "-p", "no:cacheprovider", f"--rootdir={tree}", "-k", QUICK, *files)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\[dummy\] PASSED", done.stdout)

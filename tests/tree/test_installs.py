"""What is installed where there is no nvcc, and where there is: from a wheel, from an sdist, and in place."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from support.simulation import cuda_builder
from support.tree import ROOT

pytestmark = pytest.mark.slow

PACKAGES = {"fewstep": ROOT / "engine/fewstep", "fewstep_kernels": ROOT / "kernels/fewstep_kernels"}
BUILT = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
LOOK = """
import site, sys
site.addsitedir(sys.argv[1])
sys.path.append(sys.argv[2])
import torch, fewstep, fewstep_kernels
from fewstep_kernels import _ext
assert fewstep_kernels.attention(*torch.randn(3, 1, 5, 2, 8).unbind()).shape == (1, 5, 2, 8)
print(fewstep.__file__, fewstep_kernels.__file__, _ext.extension().why_not, sep="\\n")
"""


def without_nvcc(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python where no nvcc can be found, nor these packages."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    nowhere = {"PATH": str(folder / "nowhere"), "CUDA_HOME": str(folder / "nowhere"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *command]
    return subprocess.run(command, cwd=folder, env=kept | nowhere | variables, capture_output=True, text=True)


def build(kind: str, tree: Path, out: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What pip asks of a tree: its `build_wheel`, `build_editable` or `build_sdist`."""
    out.mkdir()
    call = f"from setuptools import build_meta; build_meta.{kind}({str(out)!r})"
    return without_nvcc(["-c", call], tree, **variables)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all that an install needs, as a checkout has it."""
    pytest.importorskip("pybind11")
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("engine", "kernels", "csrc"):
        shutil.copytree(ROOT / name, copy / name, ignore=BUILT)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def installed(wheel: Path, site: Path) -> list[str]:
    """Where both packages are imported from once a wheel is unpacked, and why there is no CUDA module."""
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    others = Path(torch.__file__).parent.parent  # -S: what is installed there in place must not be found
    looked = without_nvcc(["-S", "-c", LOOK, str(site), str(others)], site)
    assert looked.returncode == 0, looked.stderr
    return looked.stdout.splitlines()


def wanted() -> set[str]:
    """The files of both packages, as a wheel names them."""
    found = {f"{name}/{path.relative_to(root)}" for name, root in PACKAGES.items() for path in root.rglob("*")}
    return {name for name in found if Path(name).suffix and "__pycache__" not in name and not name.endswith(".so")}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["build_wheel", "build_editable"])
def test_with_nvcc_the_module_is_built_and_loads(kind: str, tree: Path, tmp_path: Path) -> None:
    """Of one head dim, for sm_80; the second install finds the objects of the first."""
    home = str(Path(cuda_builder().nvcc()).parent.parent)
    few = {"CUDA_HOME": home, "PATH": os.environ["PATH"], "FEWSTEP_CUDA_ARCHS": "80", "FEWSTEP_HEAD_DIMS": "32"}
    done = build(kind, tree, tmp_path / "out", FEWSTEP_BUILD_CUDA="1", **few)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    assert not wheel.name.endswith("-py3-none-any.whl")
    assert installed(wheel, tmp_path / "site")[2] == "None"
    for module in tree.glob("kernels/fewstep_kernels/_C.*.so"):  # where an install in place leaves it
        module.unlink()


NOT_BUILT = "fewstep_kernels._C is not built; `make build` does it where there is nvcc"


def test_a_wheel_has_every_file_and_says_what_it_lacks(tree: Path, tmp_path: Path) -> None:
    done = build("build_wheel", tree, tmp_path / "out")
    assert "fewstep: no nvcc here, so without fewstep_kernels._C" in done.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as file:
        assert {name for name in file.namelist() if ".dist-info/" not in name} == wanted()
    site = tmp_path / "site"
    paths = [str(site / name / "__init__.py") for name in PACKAGES]
    assert installed(wheel, site) == [*paths, NOT_BUILT]


def test_an_sdist_has_the_sources_of_the_module_and_installs(tree: Path, tmp_path: Path) -> None:
    done = build("build_sdist", tree, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (archive,) = (tmp_path / "out").iterdir()
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("fewstep-*")
    sources = {path.relative_to(tree) for path in (tree / "csrc").rglob("*.*") if "__pycache__" not in path.parts}
    assert sources == {path.relative_to(unpacked) for path in (unpacked / "csrc").rglob("*.*")}
    assert not (unpacked / "tests").exists()
    assert build("build_wheel", unpacked, tmp_path / "wheels").returncode == 0
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert installed(wheel, tmp_path / "site")[2] == NOT_BUILT


def test_an_install_in_place_runs_the_tree_itself(tree: Path, tmp_path: Path) -> None:
    done = build("build_editable", tree, tmp_path / "out")
    assert "fewstep: no nvcc here, so without fewstep_kernels._C" in done.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    paths = [str(tree / "engine/fewstep/__init__.py"), str(tree / "kernels/fewstep_kernels/__init__.py")]
    assert installed(wheel, tmp_path / "site") == [*paths, NOT_BUILT]


@pytest.mark.parametrize("kind", ["build_wheel", "build_editable"])
def test_a_module_that_was_asked_for_and_cannot_be_built_ends_the_install(
    kind: str, tree: Path, tmp_path: Path
) -> None:
    done = build(kind, tree, tmp_path / "out", FEWSTEP_BUILD_CUDA="1")
    assert done.returncode == 1
    assert "FEWSTEP_BUILD_CUDA is 1 and there is no nvcc" in done.stderr
    assert not list((tmp_path / "out").glob("*.whl"))

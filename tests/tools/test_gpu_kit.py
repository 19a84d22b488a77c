"""The archive of what a machine with a GPU would have to compile, and what is taken from it."""

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from support.simulation import cuda_builder
from support.tree import ROOT, load

sys.path.append(str(ROOT / "csrc"))
build: Any = importlib.import_module("cuda_build")
kit: Any = importlib.import_module("kit")
maker: Any = load("gpu_kit", ROOT / "tools" / "gpu_kit.py")
pytestmark = pytest.mark.long
LINKED = f"_C{build.this_python().suffix}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a kit holds, of one module with one head dim for one architecture, for this Python."""
    cuda_builder()
    folder, built = tmp_path_factory.mktemp("kit"), tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_HEAD_DIMS", "32")
        patch.setenv("FEWSTEP_CUDA_ARCHS", "90a")
        patch.setattr(build, "MODULES", {"smoke": build.SMOKE})
        patch.setattr(build, "build_probes", lambda *_: ROOT / "LICENSE")
        patch.setattr(maker, "emulator_answers", lambda: b"answers")
        patch.setattr(maker, "ROOT", built)
        maker.fill(folder, [build.this_python()])
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to change before it is packed; nvcc is not to be had any more."""
    copy = tmp_path / "home"
    shutil.copytree(made, copy)
    monkeypatch.setattr(build, "nvcc", lambda: None)
    return copy


def packed(home: Path, digest: str | None = None) -> Path:
    """The archive, as of these sources unless a digest is given."""
    (home / "manifest.json").write_text(json.dumps({"digest": digest or kit.digest()}))
    archive = home.parent / "gpu-kit.tar.xz"
    assert maker.pack(home, archive) == archive.stat().st_size
    return archive


def test_a_module_that_was_linked_for_this_python_is_taken_as_it_is(home: Path) -> None:
    archive = packed(home)
    found = kit.prepared("smoke", archive)
    assert found.name == LINKED
    assert found.read_bytes() == (home / "smoke" / LINKED).read_bytes()
    answers = kit.emulator_answers(archive)
    assert answers.read_bytes() == b"answers"


def test_one_that_does_not_load_is_linked_anew_from_the_objects_without_nvcc(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (home / "smoke" / LINKED).write_bytes(b"of another machine")
    found = kit.prepared("smoke", packed(home))
    assert found.parent.name == "linked-here"
    build.look(found)
    assert "does not load" in capfd.readouterr().out


def test_else_it_is_built_from_the_sources_and_the_reason_is_said(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(home / "smoke")
    with pytest.raises(build.BuildError, match="nvcc is not installed"):
        kit.prepared("smoke", packed(home))
    assert "the kit has no smoke" in capfd.readouterr().out


def test_a_kit_of_other_sources_is_left_aside(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    archive = packed(home, digest="0" * 16)
    assert kit.emulator_answers(archive) is None
    assert "gpu-kit.tar.xz is of other sources" in capfd.readouterr().out
    with pytest.raises(build.BuildError, match="nvcc is not installed"):
        kit.prepared("smoke", archive)


def test_without_a_kit_it_is_built_from_the_sources(home: Path) -> None:
    with pytest.raises(build.BuildError, match="nvcc is not installed"):
        kit.prepared("smoke", home / "none.tar.xz")


def test_the_digest_is_of_every_source(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    assert kit.digest(tmp_path) == kit.digest()
    seen = {kit.digest()}
    for name in ("csrc/attention/softmax.h", "csrc/cuda_build.py", "tests/csrc/sm90_probes.cpp"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")
        seen.add(kit.digest(tmp_path))
    assert len(seen) == 4


def test_an_archive_too_large_to_carry_is_not_left_behind(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maker, "MAX_BYTES", 1000)
    with pytest.raises(SystemExit, match="allowed: 0"):
        packed(home)
    assert not list(home.parent.glob("*gpu-kit*"))


def test_a_python_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    found, missing = maker.pythons()
    assert [each.suffix for each in found] == [build.this_python().suffix]
    assert all("not run, there is none with headers here" in line for line in missing)
    assert len(found) + len(missing) == 3

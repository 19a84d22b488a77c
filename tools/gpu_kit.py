"""Make one archive of all that a machine with a GPU would have to compile: on a CPU, with nvcc, in a few minutes.

    .venv/bin/python tools/gpu_kit.py [--out build/gpu-kit.tar.xz]

`make gpu` finds it in build/gpu-kit.tar.xz: carry it to the same place in the tree on the other machine. csrc/kit.py
lists what is in it. A module is linked for each CPython 3.11, 3.12 and 3.13 with headers that is found here; with any
other Python, the other machine needs g++ and pybind11, and still no nvcc.
"""

import argparse
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
for folder in ("csrc", "tests", "engine", "kernels"):
    sys.path.insert(0, str(ROOT / folder))
import cuda_build  # noqa: E402
import kit  # noqa: E402
from ninja_build import BuildError  # noqa: E402

VERSIONS = ("3.11", "3.12", "3.13")
MAX_BYTES = 60 * 2**20  # of the archive: what can be carried to a machine that is lent
ASK = """
import json, os, platform, sys, sysconfig
include = sysconfig.get_paths()["include"]
ours = platform.python_implementation() == "CPython" and os.path.exists(os.path.join(include, "Python.h"))
print(json.dumps([sys.executable, include, sysconfig.get_config_var("EXT_SUFFIX")] if ours else None))
"""


def candidates(version: str) -> Iterator[Path]:
    """Where a Python of a version may be: this one, on the PATH, or in pyenv's folder."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        yield Path(sys.executable)
    name = f"python{version}"
    yield from (Path(each) / name for each in os.get_exec_path() if "shims" not in each)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/{name}"))


def ask(path: Path) -> cuda_build.Python | None:
    """What a Python says of itself; None if it does not run, is no CPython, or has no headers."""
    done = subprocess.run([path, "-c", ASK], capture_output=True, text=True)
    found = json.loads(done.stdout) if done.returncode == 0 else None
    return cuda_build.Python(*found) if found else None


def pythons() -> tuple[list[cuda_build.Python], list[str]]:
    """One of each version, and of what is not to be had here, a line that says so."""
    found, missing = [], []
    for version in VERSIONS:
        answers = (ask(path) for path in candidates(version) if path.is_file())
        python = next((each for each in answers if each), None)
        if python:
            found.append(python)
        else:
            missing.append(f"CPython {version}: not run, there is none with headers here")
    return found, missing


def emulator_answers() -> bytes:
    """What the emulator says to each probe, as an .npz."""
    cases: Any = importlib.import_module("support.sm90_cases")
    data = io.BytesIO()
    np.savez_compressed(data, **{name: ask().numpy() for name, ask in cases.answers(cases.probes(1))})
    return data.getvalue()


def fill(home: Path, found: Sequence[cuda_build.Python]) -> None:
    """Put everything but the manifest into a folder."""
    built, runtime = ROOT / "build" / "cuda", cuda_build.cuda_runtime()
    shutil.copy(runtime, home / kit.RUNTIME)
    for module in cuda_build.MODULES.values():
        objects = cuda_build.build_objects(built, module)
        (home / module.name / "objects").mkdir(parents=True)
        for each in objects:
            shutil.copy(each, home / module.name / "objects")
        for python in found:
            shutil.copy(cuda_build.link(built / module.name, objects, python, runtime), home / module.name)
        print(f"{module.name}: {len(objects)} objects, linked and imported by {len(found)} Pythons", flush=True)
    (home / "probes").mkdir()
    for python in found:
        shutil.copy(cuda_build.build_probes(ROOT / "build" / "probes", kit.PROBES, python), home / "probes")
    print(f"probes: for {len(found)} Pythons", flush=True)
    (home / kit.ANSWERS).write_bytes(emulator_answers())
    print("the emulator's answers", flush=True)


def pack(home: Path, archive: Path) -> int:
    """Write the archive whole or not at all; gives back its bytes."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    temporary = archive.with_name(f".{archive.name}")
    with tarfile.open(temporary, "w:xz") as file:
        for path in [home / "manifest.json", *sorted(home.rglob("*.*"))]:
            name = path.relative_to(home).as_posix()
            if path.is_file() and name not in file.getnames():
                file.add(path, name, filter=anonymous)
    size = temporary.stat().st_size
    if size > MAX_BYTES:
        temporary.unlink()
        sys.exit(f"gpu-kit: it would have {size / 2**20:.1f} MiB; allowed: {MAX_BYTES // 2**20}")
    temporary.replace(archive)
    return size


def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's file."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=kit.ARCHIVE, help="the archive")
    options = parser.parse_args()
    found, missing = pythons()
    print(*(f"CPython: {each.path}" for each in found), *missing, sep="\n", flush=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            fill(home, found)
            manifest = {"digest": kit.digest(), "archs": cuda_build.architectures(), "not_run": missing}
            manifest |= {"head_dims": cuda_build.head_dims(), "pythons": [each.suffix for each in found]}
            (home / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
            size = pack(home, options.out.resolve())
    except BuildError as error:
        print(f"gpu-kit: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What was built elsewhere for a machine with a GPU: an archive that tools/gpu_kit.py makes and `prepared` takes from.

manifest.json                        the digest of the sources, and what could not be made
<module>/objects/*.o                 what nvcc made of csrc, which knows no Python
<module>/_C<suffix>                  the module for one Python
probes/sm90_probes<suffix>           tests/csrc/sm90_probes.cpp for one Python
sm90_emulator.npz                    the emulator's answers to the probes
libcudart_static.a                   CUDA's runtime
"""

import functools
import hashlib
import json
import shutil
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cuda_build
from ninja_build import CSRC, BuildError, locked

ROOT = CSRC.parent
ARCHIVE = ROOT / "build" / "gpu-kit.tar.xz"
PROBES = ROOT / "tests" / "csrc" / "sm90_probes.cpp"
ANSWERS = "sm90_emulator.npz"
RUNTIME = "libcudart_static.a"


def digest(root: Path = ROOT) -> str:
    """Of all that a kit is made from."""
    sources = [path for path in (root / "csrc").rglob("*.*") if path.suffix in {".h", ".cu", ".cpp"}]
    sources += [root / "csrc" / name for name in ("ninja_build.py", "cuda_build.py")]
    found = hashlib.sha256()
    for path in sorted([*sources, *(root / "tests").rglob("*sm90_*.*")]):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


@functools.cache
def unpacked(archive: Path) -> Path | None:
    """The folder of a kit, unpacked beside it; None, and a word on why, where it is missing or of other sources."""
    if not archive.exists():
        return None
    home = archive.parent / "kit"
    with locked(home), tarfile.open(archive) as file:
        manifest = file.extractfile("manifest.json")
        made = json.load(manifest)["digest"] if manifest else ""
        if made != digest():
            print(f"{archive.name} is of other sources, so it is left aside: `make gpu-kit` makes it anew")
            return None
        there = home / made
        if not there.exists():
            scratch = home / f".{made}"
            shutil.rmtree(scratch, ignore_errors=True)
            file.extractall(scratch, filter="data")
            scratch.replace(there)
    return there


def prepared(name: str, archive: Path = ARCHIVE) -> Path:
    """A module for this Python: from the kit; else linked from the kit's objects by g++; else built from the sources.

    Args:
        name: library, smoke or sweep, as cuda_build.MODULES has them; or probes.
        archive: the kit.

    Raises:
        BuildError: it can be had in none of these ways; the last one's reason.
    """
    kit, python = unpacked(archive), cuda_build.this_python()
    if name == "probes":
        prebuilt = kit / "probes" / f"{PROBES.stem}{python.suffix}" if kit else None
        if prebuilt and prebuilt.exists():
            try:
                cuda_build.look(prebuilt, call="")
                return prebuilt
            except BuildError as error:
                print(error)
        return cuda_build.build_probes(ROOT / "build" / "probes", PROBES)
    if kit:
        try:
            return _from_kit(kit / name, kit / RUNTIME, python)
        except BuildError as error:
            print(f"The kit's {name} is of no use here, so it is built from the sources: {error}")
    return cuda_build.build_cuda(ROOT / "build" / "cuda", cuda_build.MODULES[name])


def _from_kit(folder: Path, runtime: Path, python: cuda_build.Python) -> Path:
    linked = folder / f"_C{python.suffix}"
    if linked.exists():
        try:
            cuda_build.look(linked)
            return linked
        except BuildError as error:
            print(error)
    objects = sorted((folder / "objects").glob("*.o"))
    if not objects:
        raise BuildError(f"the kit has no {folder.name}")
    return cuda_build.link(folder / "linked-here", objects, python, runtime)


def emulator_answers(archive: Path = ARCHIVE) -> Path | None:
    """The emulator's answers to the probes, if the kit has them."""
    kit = unpacked(archive)
    return kit / ANSWERS if kit and (kit / ANSWERS).exists() else None

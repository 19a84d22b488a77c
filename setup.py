"""The two source roots, engine/ and kernels/, and the CUDA module; everything else is in pyproject.toml.

FEWSTEP_BUILD_CUDA   1: build fewstep_kernels._C or fail; 0: do not; unset: build it where there is nvcc
csrc/cuda_build.py names the variables that say for what it is built, and with what.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILDS = {"bdist_wheel", "editable_wheel", "build_ext", "install", "develop"}
sys.path.insert(0, str(ROOT / "csrc"))
import cuda_build as csrc  # noqa: E402


class BuildCuda(build_ext):
    """Has ninja and nvcc build the module, and puts it where setuptools wants it."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(csrc.build_cuda(ROOT / "build" / "cuda"), target)
        except csrc.BuildError as error:
            sys.exit(f"fewstep: {error}")


def extensions() -> list[Extension]:
    """The CUDA module, or nothing and a word about it."""
    wanted = os.environ.get("FEWSTEP_BUILD_CUDA", "")
    if wanted not in ("", "0", "1"):
        sys.exit(f"FEWSTEP_BUILD_CUDA: got {wanted!r}; allowed: 0 or 1")
    if wanted == "0":
        return []
    if csrc.nvcc() is None:
        if wanted == "1":
            sys.exit("FEWSTEP_BUILD_CUDA is 1 and there is no nvcc: name its toolkit's folder by CUDA_HOME")
        if BUILDS & {*sys.argv}:  # pip runs this file for its metadata too
            print("fewstep: no nvcc here, so without fewstep_kernels._C; attention is torch's own", file=sys.stderr)
        return []
    return [Extension("fewstep_kernels._C", sources=[])]


setup(
    packages=find_packages("engine") + find_packages("kernels"),
    package_dir={"fewstep": "engine/fewstep", "fewstep_kernels": "kernels/fewstep_kernels"},
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildCuda},
)

"""Compiles csrc with nvcc into the CUDA module _C, which needs no GPU.

FEWSTEP_CUDA_ARCHS   machine code for these, such as 80;89;90a; unset: 80, 90 and 90a
FEWSTEP_HEAD_DIMS    kernels for these head dims, such as 40;64, or all; unset: those that U-Nets have
CUDA_HOME, MAX_JOBS  where nvcc is; how many of it run at once

nvcc compiles what knows no Python, and g++ bindings.cpp, which does: so one set of nvcc's objects serves every Python.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ninja_build import (
    BFLOAT16_ONLY,
    CSRC,
    HEAD_DIMS,
    HOST,
    TYPES,
    VARIANTS,
    WITH_SM90,
    WITH_SWEEP,
    BuildError,
    Ninja,
    compiler,
    dispatch_object,
    jobs,
    locked,
    python_flags,
    variant_objects,
)

U_NETS = (32, 40, 64, 80, 128, 160)  # what is built unless more is asked for; 96, 192 and 256 are rare there
CUDA = ("-std=c++17", "-O3", "--threads", "1", "-Xcompiler", "-fPIC,-fvisibility=hidden")
PTX = "arch=compute_80,code=compute_80"
ARCHS = "80;90;90a"  # 90: compiling the kernels of sm_80 from PTX takes Hopper's driver seconds at the first call
SPIN_LIMIT = 1 << 22  # tries of a barrier's wait in the module for the first contact: about a second, then it is a hang
SYSTEM = ("-lpthread", "-ldl", "-lrt")  # what CUDA's static runtime needs
IMPORT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location(sys.argv[1], sys.argv[2])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""
CALL = """
try:
    module.attention_fwd([0] * 4, [[0] * 3] * 4, [0] * 5, False, 1.0, "", 1, 80, 0)
except ValueError as error:
    assert "must not be null" in str(error), error
else:
    sys.exit("attention_fwd takes null pointers")
print(*module.head_dims(), module.driver_version())
"""


class Python(NamedTuple):
    """A CPython that a module is made for."""

    path: str
    include: str  # where its headers are
    suffix: str  # how its extension modules end, such as .cpython-311-x86_64-linux-gnu.so


def this_python() -> Python:
    """The one that runs."""
    return Python(sys.executable, sysconfig.get_paths()["include"], str(sysconfig.get_config_var("EXT_SUFFIX")))


@dataclass(frozen=True)
class Module:
    """One of the modules that the same sources make, each called _C."""

    name: str  # of its folder
    types: tuple[str, ...] = TYPES
    flags: tuple[str, ...] = ()  # of its kernels
    sweep: bool = False  # with the designs that are there to be measured

    @property
    def macros(self) -> tuple[str, ...]:
        """What built.h says beside the head dims."""
        return (*(() if "half" in self.types else (BFLOAT16_ONLY,)), *((WITH_SWEEP,) if self.sweep else ()))


LIBRARY = Module("library")
SMOKE = Module("smoke", ("bfloat16",), (f"-DFEWSTEP_SPIN_LIMIT={SPIN_LIMIT}",))  # a hang ends, and is named
SWEEP = Module("sweep", ("bfloat16",), sweep=True)
MODULES = {module.name: module for module in (LIBRARY, SMOKE, SWEEP)}


def nvcc() -> str | None:
    """The CUDA compiler: CUDA_HOME's, the PATH's, or that of the usual folder."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc", path=f"{home}/bin") or shutil.which("nvcc")


def nvcc_or_error() -> str:
    """The same, or a BuildError that says what to do."""
    found = nvcc()
    if found is None:
        raise BuildError("nvcc is not installed: name its toolkit's folder by CUDA_HOME")
    return found


def listed(variable: str, default: str) -> list[str]:
    """The parts of an environment variable such as "80;90a"."""
    return (os.environ.get(variable, "") or default).replace(",", ";").split(";")


def architectures() -> list[str]:
    """What is compiled to machine code: 90a, and it alone, brings the kernels of sm_90a, any other those of sm_80."""
    found = listed("FEWSTEP_CUDA_ARCHS", ARCHS)
    for each in found:
        if each != "90a" and (not re.fullmatch(r"[0-9]{2,3}", each) or int(each) < 80):
            raise BuildError(f"FEWSTEP_CUDA_ARCHS: got {each!r}; allowed: 80 or newer, or 90a, such as 80;90a")
    return found


def head_dims() -> list[int]:
    """What variants are compiled for, ascending; every smaller head dim runs in the nearest above."""
    found = listed("FEWSTEP_HEAD_DIMS", ";".join(map(str, U_NETS)))
    if found == ["all"]:
        return [*HEAD_DIMS]
    allowed = {str(each): each for each in HEAD_DIMS}
    for each in found:
        if each not in allowed:
            raise BuildError(f"FEWSTEP_HEAD_DIMS: got {each!r}; allowed: all, or some of {', '.join(allowed)}")
    return sorted({allowed[each] for each in found})


def targets(kernel: str, archs: Sequence[str]) -> list[str]:
    """What nvcc makes of a kernel: machine code for each architecture; of sm_80's, PTX too for those to come."""
    if kernel == "sm90":
        return ["-gencode=arch=compute_90a,code=sm_90a"]
    found = [*(f"arch=compute_{each},code=sm_{each}" for each in archs if each != "90a"), PTX]
    return [f"-gencode={target}" for target in found]


def cuda_objects(plan: Ninja, module: Module, archs: Sequence[str], dims: Sequence[int]) -> list[str]:
    """The rules for nvcc, and all of a module that knows no Python."""
    kernels = [kernel for kernel in VARIANTS if kernel == "sm80" or "90a" in archs]
    for kernel in kernels:
        command = shlex.join([nvcc_or_error(), *CUDA, *targets(kernel, archs), *module.flags])
        plan.rule(f"compile_{kernel}", f"{command} $flags -MMD -MF $out.d -c $in -o $out", depfile=True)
    macros = [*([WITH_SM90] if "sm90" in kernels else []), *module.macros]
    made = [plan.edge("driver.o", "compile_sm80", [CSRC / "driver.cu"])]
    made.append(dispatch_object(plan, "compile_sm80", dims, *macros))
    return made + variant_objects(
        plan, {kernel: f"compile_{kernel}" for kernel in kernels}, dims, module.types, module.sweep
    )


def build_objects(folder: Path, module: Module = LIBRARY) -> list[Path]:
    """All of a module that knows no Python, in a folder of its own in `folder`; gives back the object files.

    Raises:
        BuildError: nvcc is missing or refuses.
    """
    archs, dims, home = architectures(), head_dims(), folder / module.name
    with locked(home):
        plan = Ninja(home, "cuda.ninja")
        made = [home / each for each in cuda_objects(plan, module, archs, dims)]
        print(f"csrc: {nvcc()}, {jobs()} at once", flush=True)
        plan.run(jobs())
    return made


def link(home: Path, objects: Sequence[Path], python: Python, runtime: Path) -> Path:
    """The bindings for one Python and the module of them, by g++ alone; gives back its file.

    Raises:
        BuildError: g++ is missing or refuses, or what was built does not load.
    """
    with locked(home):
        plan = Ninja(home, f"bindings{python.suffix}.ninja")
        command = shlex.join([compiler(), *HOST])
        plan.rule("compile", f"{command} $flags -MMD -MF $out.d -c $in -o $out", depfile=True)
        plan.rule("link", f"{compiler()} -shared $in $flags -o $out")
        flags = python_flags(python.include)
        bindings = plan.edge(f"bindings{python.suffix}.o", "compile", [CSRC / "bindings.cpp"], flags)
        made = home / plan.edge(f"_C{python.suffix}", "link", [bindings, *objects, runtime], SYSTEM)
        plan.run(jobs())
    look(made, python.path)
    return made


def build_cuda(folder: Path, module: Module = LIBRARY) -> Path:
    """Build a module for this Python, or find it built, import it, and print what is in it; gives back its file.

    Raises:
        BuildError: a compiler is missing or refuses, or what was built does not load.
    """
    objects = build_objects(folder, module)
    made = link(folder / module.name, objects, this_python(), cuda_runtime())
    names = ", ".join([*(f"sm_{each}" for each in architectures()), "PTX of compute_80"])
    dims, size = ", ".join(map(str, head_dims())), f"{made.stat().st_size / 2**20:.1f} MiB"
    print(f"csrc: attention for {names}; head dims {dims}; {', '.join(module.types)}; {size}; loads")
    return made


def cuda_runtime() -> Path:
    """CUDA's static runtime, from the folders where nvcc looks for libraries."""
    done = subprocess.run([nvcc_or_error(), "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True)
    folders = re.findall(r"-L([^\" ]+)", done.stderr)
    found = [path for folder in folders if (path := Path(folder) / "libcudart_static.a").exists()]
    if not found:
        raise BuildError(f"libcudart_static.a is in none of nvcc's folders, {', '.join(folders)}")
    return found[0].resolve()


def look(module: Path, python: str = sys.executable, call: str = CALL) -> None:
    """Import a built module in a process of its own and call it; no torch and no GPU are needed.

    Raises:
        BuildError: it does not load, or does not answer as it should.
    """
    command = [python, "-c", IMPORT + call, module.name.partition(".")[0], str(module)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{module.name} was built and does not load:\n{done.stdout}{done.stderr}")


def build_probes(folder: Path, source: Path, python: Python | None = None) -> Path:
    """Build a module of other kernels for sm_90a, a file that includes simt.h and pybind11; gives back its file."""
    found, of = nvcc_or_error(), python or this_python()
    with locked(folder):
        plan = Ninja(folder, f"{source.stem}{of.suffix}.ninja")
        command = shlex.join([found, *CUDA, *targets("sm90", [])])
        plan.rule("compile", f"{command} $flags -MMD -MF $out.d -x cu -c $in -o $out", depfile=True)
        plan.rule("link", f"{shlex.quote(found)} -shared -cudart static $in -o $out")
        flags = [*python_flags(of.include), f"-I{CSRC}"]
        made = plan.edge(f"{source.stem}{of.suffix}.o", "compile", [source], flags)
        module = plan.edge(f"{source.stem}{of.suffix}", "link", [made])
        plan.run(jobs())
    return folder / module

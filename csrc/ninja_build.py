"""Compiles csrc with g++ into the emulator's module _sim; cuda_build.py does it with nvcc. Ninja does the work.

A build lives in a folder that may be built again: ninja knows what has changed. A lock on it keeps two processes, such
as the workers of pytest-xdist, from building at once.
"""

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

CSRC = Path(__file__).resolve().parent
HEAD_DIMS = (32, 40, 64, 80, 96, 128, 160, 192, 256)
TYPES = ("bfloat16", "half")
EMULATOR = tuple(sorted(f"simt/emulator/{each.name}" for each in (CSRC / "simt/emulator").glob("*.cpp")))
DISPATCH = "attention/attention.cu"
VARIANTS = {"sm80": "attention/sm80/variant.cu", "sm90": "attention/sm90/variant.cu"}
DESIGNS = CSRC / "attention/sm90/designs.h"
WARNINGS = ("-Wall", "-Wextra", "-Wno-unused-function")
# An uninitialised local is a pattern and not, by chance, zero; no product and sum in one rounding, so that two
# machines find the same bits.
HOST = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", *WARNINGS)
# A mutant is compiled to be run for a moment: half of its time would go into optimising, and into these headers.
MUTANT = ("-O1", "-include", "standard.h")
STANDARD = ("algorithm", "array", "cmath", "cstring", "functional", "map", "string", "vector")
POISON = "-ftrivial-auto-var-init=pattern"
WITH_SM90 = "FEWSTEP_SM90"  # in built.h: the kernel for Hopper is there too
WITH_SWEEP = "FEWSTEP_SWEEP"  # in built.h: designs of it that are there to be measured
BFLOAT16_ONLY = "FEWSTEP_BFLOAT16_ONLY"  # in built.h: no variant of float16 is there


class Planted(NamedTuple):
    """A bug for the tests to find: what stands in a file of csrc instead of a text that is in it once."""

    file: str
    correct: str
    wrong: str
    design: str = "Exact"  # of the kernel of sm_90, as designs.h calls the type


class BuildError(Exception):
    """What is missing for a build, or the compiler's own words."""


class Ninja:
    """A file for ninja in the making: rules and edges, written at once, and only if they differ."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.lines = folder, name, ["ninja_required_version = 1.5"]

    def rule(self, name: str, command: str, depfile: bool = False) -> None:
        """A command with $in, $out and $flags; `depfile`: it writes $out.d."""
        self.lines += [f"rule {name}", f"  command = {command}", f"  description = {name} $out"]
        self.lines += ["  depfile = $out.d", "  deps = gcc"] if depfile else []

    def edge(
        self, out: str, rule: str, inputs: Sequence[Path | str], flags: Sequence[str] = (), after: Sequence[str] = ()
    ) -> str:
        """One thing to make, once `after` is made; gives back its name."""
        given = " ".join(_escaped(str(each)) for each in (*inputs, *(("|", *after) if after else ())))
        self.lines += [f"build {_escaped(out)}: {rule} {given}"]
        self.lines += [f"  flags = {' '.join(shlex.quote(flag) for flag in flags)}"]
        return out

    def run(self, jobs: int) -> str:
        """Bring everything up to date; gives back what ninja printed."""
        write_if_different(self.folder / self.name, "\n".join([*self.lines, ""]))
        command = [*ninja(), "-C", str(self.folder), "-f", self.name, "-j", str(jobs)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"{shlex.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


def write_if_different(path: Path, text: str) -> None:
    """A file that has this text already keeps its time, so that nothing is built again for it."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _escaped(path: str) -> str:
    return path.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def ninja() -> list[str]:
    """The command of ninja: that of the Python package, or one on the PATH."""
    try:
        from ninja import BIN_DIR
    except ImportError:
        found = shutil.which("ninja")
        if found is None:
            raise BuildError("ninja is not installed: pip install ninja") from None
        return [found]
    return [str(Path(BIN_DIR) / "ninja")]


def jobs() -> int:
    """How many compilers run at once: MAX_JOBS, or one for each core that may be used."""
    found = os.environ.get("MAX_JOBS", "") or str(len(os.sched_getaffinity(0)))
    if not found.isdigit() or int(found) < 1:
        raise BuildError(f"MAX_JOBS: got {found!r}; allowed: a number from 1")
    return int(found)


def python_flags(include: str) -> list[str]:
    """Where pybind11's headers are, and Python's."""
    try:
        import pybind11
    except ImportError:
        raise BuildError("pybind11 is not installed: pip install pybind11") from None
    return [f"-I{pybind11.get_include()}", f"-I{include}"]


def designs(kernel: str, head_dim: int, kind: str, sweep: bool = False, source: Path = DESIGNS) -> list[str]:
    """The designs of a kernel, as designs.h calls the types; with `sweep` those that are only there to be measured."""
    if kernel != "sm90":
        return ["Exact"]
    swept = re.findall(r"^  DESIGN\((\d+), (\w+)\)", source.read_text(), re.M) if sweep and kind == "bfloat16" else []
    padded = [] if head_dim % 64 == 0 else ["Padded"]
    return ["Exact", *padded, *(design for of, design in swept if int(of) == head_dim)]


def variant_flags(head_dim: int, kind: str, design: str = "Exact") -> list[str]:
    """What makes a variant.cu one variant."""
    return [f"-DVARIANT_HEAD_DIM={head_dim}", f"-DVARIANT_TYPE={kind}", f"-DVARIANT_DESIGN={design}"]


def dispatch_object(plan: Ninja, rule: str, head_dims: Sequence[int], *macros: str) -> str:
    """The choice among variants of these head dims, and built.h, which names them to it.

    A header and not a flag: nvcc would split -DFEWSTEP_HEAD_DIMS=32,40 at its comma.
    """
    name = "_".join(["attention", *map(str, head_dims), *(macro.removeprefix("FEWSTEP_").lower() for macro in macros)])
    lines = [f"#define FEWSTEP_HEAD_DIMS {', '.join(map(str, head_dims))}", *(f"#define {macro}" for macro in macros)]
    header = plan.folder / name / "built.h"
    header.parent.mkdir(exist_ok=True)
    write_if_different(header, "\n".join(["// What this build holds.", "#pragma once", "", *lines, ""]))
    return plan.edge(f"{name}.o", rule, [CSRC / DISPATCH], [f"-I{header.parent}"])


def variant_objects(
    plan: Ninja,
    rules: dict[str, str],
    head_dims: Sequence[int] = HEAD_DIMS,
    types: Sequence[str] = TYPES,
    sweep: bool = False,
) -> list[str]:
    """Every variant of each kernel in `rules`, by its rule; one of a smaller head dim or another design is another."""
    return [
        plan.edge(variant_name(*each), rules[each[0]], [CSRC / VARIANTS[each[0]]], variant_flags(*each[1:]))
        for kernel in rules for head_dim in head_dims for kind in types
        for each in [(kernel, head_dim, kind, design) for design in designs(kernel, head_dim, kind, sweep)]
    ]  # fmt: skip


def variant_name(kernel: str, head_dim: int, kind: str, design: str = "Exact") -> str:
    """The object file of a variant."""
    return f"{kernel}_d{head_dim}_{kind}{'' if design == 'Exact' else f'_{design}'}.o"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The only process in `folder`, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def compiler() -> str:
    """The C++ compiler: CXX, or g++."""
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        raise BuildError("no C++ compiler: install g++, or name one by CXX")
    return found


def _emulator_objects(plan: Ninja) -> list[str]:
    """The rules for g++, and everything of _sim but attention."""
    cxx = compiler()
    probe = subprocess.run([cxx, POISON, "-x", "c++", "-E", os.devnull], capture_output=True)
    poison = "" if probe.returncode else f" {POISON}"
    compile = f"{cxx} {' '.join(HOST)}{poison} $flags"
    plan.rule("compile", f"{compile} -MMD -MF $out.d -x c++ -c $in -o $out", depfile=True)
    plan.rule("precompile", f"{compile} -x c++-header $in -o $out")
    plan.rule("link", f"{cxx} -shared $in -o $out")
    made = [plan.edge(f"{Path(each).stem}.o", "compile", [CSRC / each]) for each in EMULATOR]
    return [
        *made,
        plan.edge(
            "bindings.o", "compile", [CSRC / "simt/bindings.cpp"], python_flags(sysconfig.get_paths()["include"])
        ),
    ]


def build_emulator(folder: Path) -> Path:
    """Build _sim in `folder`, or find it built; gives back the module's file."""
    with locked(folder):
        plan = Ninja(folder, "emulator.ninja")
        objects = [*_emulator_objects(plan), dispatch_object(plan, "compile", HEAD_DIMS, WITH_SM90, WITH_SWEEP)]
        objects += variant_objects(plan, dict.fromkeys(VARIANTS, "compile"), sweep=True)
        module = plan.edge("_sim.so", "link", objects)
        plan.run(jobs())
    return folder / module


def build_kernels(folder: Path, source: Path) -> Path:
    """Build a module of other kernels, a file that includes simt.h, with the emulator; gives back the module's file."""
    with locked(folder):
        plan = Ninja(folder, f"{source.stem}.ninja")
        flags = [*python_flags(sysconfig.get_paths()["include"]), f"-I{CSRC}"]
        *emulator, _ = _emulator_objects(plan)
        made = plan.edge(f"{source.stem}.o", "compile", [source], flags)
        module = plan.edge(f"{source.stem}.so", "link", [*emulator, made])
        plan.run(jobs())
    return folder / module


def build_mutants(folder: Path, mutants: dict[str, Planted], head_dim: int) -> dict[str, Path]:
    """Build _sim once for each planted bug.

    Of the kernel that has the file only one variant is compiled for each, of the bug's design and in bfloat16; where
    both kernels have it, one of each. The rest is shared, and with `build_emulator` in this folder.
    """
    made: dict[str, Path] = {}
    with locked(folder):
        plan = Ninja(folder, "mutants.ninja")
        shared = _emulator_objects(plan)
        shared.append(dispatch_object(plan, "compile", [head_dim], BFLOAT16_ONLY, WITH_SM90, WITH_SWEEP))
        whole = variant_objects(plan, dict.fromkeys(VARIANTS, "compile"), [head_dim], ["bfloat16"], sweep=True)
        write_if_different(folder / "standard.h", "".join(f"#include <{each}>\n" for each in STANDARD))
        standard = plan.edge("standard.h.gch", "precompile", ["standard.h"], MUTANT[:1])
        for name, mutant in mutants.items():
            _plant(folder / name, mutant)
            rest, changed = dict.fromkeys(whole), []
            for kernel, source in VARIANTS.items():
                if kernel not in mutant.file and any(other in mutant.file for other in VARIANTS):
                    continue
                design = mutant.design if kernel == "sm90" else "Exact"
                flags = [*MUTANT, *variant_flags(head_dim, "bfloat16", design)]
                del rest[variant_name(kernel, head_dim, "bfloat16", design)]
                changed.append(plan.edge(f"{name}_{kernel}.o", "compile", [folder / name / source], flags, [standard]))
            # The linker takes the first of a function that several have.
            made[name] = folder / plan.edge(f"{name}.so", "link", [*changed, *shared, *rest])
        plan.run(jobs())
    return made


def _plant(folder: Path, mutant: Planted) -> None:
    """A copy of the sources with one change; files that are as they should be keep their time."""
    for source in CSRC.rglob("*.*"):
        if source.suffix not in (".h", ".cu", ".cpp"):
            continue
        name = source.relative_to(CSRC)
        text, copy = source.read_text(), folder / name
        if name == Path(mutant.file):
            if text.count(mutant.correct) != 1:
                times = f"{text.count(mutant.correct)} times"
                raise BuildError(f"{mutant.file} has {mutant.correct!r} {times}; allowed: once")
            text = text.replace(mutant.correct, mutant.wrong)
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_if_different(copy, text)


def main() -> int:
    """Build the emulator."""
    try:
        print(build_emulator(CSRC.parent / "build" / "sim"))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

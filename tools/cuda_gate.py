"""Compile every attention variant for GPUs that are not here, and fail on what makes one slow or unfit to run.

    .venv/bin/python tools/cuda_gate.py [--only d40] [--json]

A row fails where a kernel spills registers or has a stack, asks for more shared memory than every device from sm_80 on
gives a block, or does without tensor cores. Rows are kept in build/cuda_gate under a hash of all they depend on.
"""

import argparse
import functools
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "csrc"))
from ninja_build import CSRC, HEAD_DIMS, TYPES, VARIANT, nvcc, variant_flags  # noqa: E402

MAX_SHARED = 101376  # bytes a block may have on sm_86, sm_89 and sm_120
PROCESSES = 2
ARCHS = ("80",)
USAGE = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)
SHAPE = re.compile(r"ShapeILi(\d+)ELi(\d+)ELi(\d+)ELi(\d+)E")  # in a mangled name: head dim, row tiles, keys, stages
FUNCTION = re.compile(r"Function : (\w+)")


@dataclass(frozen=True)
class Row:
    """What one kernel compiled to."""

    variant: str
    kernel: str
    arch: str
    registers: int
    stack: int  # bytes a thread
    spills: int  # bytes stored and loaded
    shared: int  # bytes a block, at most
    hmma: int  # instructions

    @property
    def faults(self) -> list[str]:
        """Why it may not pass, in words."""
        found = [f"{self.spills} bytes of spills"] if self.spills else []
        found += [f"a stack of {self.stack} bytes"] if self.stack else []
        found += [f"{self.shared} bytes of shared memory, over {MAX_SHARED}"] if self.shared > MAX_SHARED else []
        return found + ([] if self.hmma else ["no HMMA"])


def tool(name: str) -> Path:
    """One of the CUDA tools inside the triton package."""
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        sys.exit(f"cuda gate: {name} is in the triton package, which is not installed here")
    return Path(spec.origin).parent / "backends" / "nvidia" / "bin" / name


def run(*command: str | Path) -> str:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"cuda gate: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def hmma_counts(cubin: Path) -> dict[str, int]:
    """How many HMMA instructions each function of a cubin has."""
    _, *functions = FUNCTION.split(run(tool("cuobjdump"), "--dump-sass", cubin))
    return {name: body.count("HMMA.16816") for name, body in zip(functions[::2], functions[1::2], strict=True)}


def shared_bytes(csrc: Path, shapes: list[tuple[str, ...]], scratch: Path) -> list[int]:
    """What shape.h makes of each shape, as a program of the host's compiler prints it."""
    source, program = scratch / "shared.cpp", scratch / "shared"
    calls = "".join(f'std::printf("%zu\\n", Shape<{",".join(shape)}>::kSharedBytes);' for shape in shapes)
    head = f'#include <cstdio>\n#include "{csrc}/attention/sm80/shape.h"\nusing namespace attention::sm80;\n'
    source.write_text(f"{head}int main() {{ {calls} }}\n")
    run(os.environ.get("CXX", "g++"), "-std=c++17", source, "-o", program)
    return [int(line) for line in run(program).split()]


def measure(csrc: Path, head_dim: int, kind: str, arch: str) -> list[Row]:
    """Compile one variant for one architecture and read what came of each kernel."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        cubin = scratch / "variant.cubin"
        target = f"arch=compute_{arch},code=sm_{arch}"
        flags = ["-std=c++17", "-O3", "-gencode", target, "-Xptxas", "-v", "-cubin", *variant_flags(head_dim, kind)]
        printed = run(nvcc() or "nvcc", *flags, csrc / VARIANT, "-o", cubin)
        used = [each.groupdict() for each in USAGE.finditer(printed)]
        hmma = hmma_counts(cubin)
        shapes = [SHAPE.search(each["name"]).groups() for each in used]
        shared = shared_bytes(csrc, shapes, scratch)
    return [
        Row(
            variant=f"d{head_dim} {kind}",
            kernel=f"{shape[1]}x16 rows a warp, {shape[2]} keys a tile, {shape[3]} stages",
            arch=arch,
            registers=int(each["registers"]),
            stack=int(each["stack"]),
            spills=int(each["stores"]) + int(each["loads"]),
            shared=size,
            hmma=hmma[each["name"]],
        )
        for each, shape, size in zip(used, shapes, shared, strict=True)
    ]


@functools.cache
def everything(csrc: Path) -> str:
    """What all rows depend on: the sources, this file, the compiler."""
    sources = [*sorted(csrc.rglob("*.h")), csrc / VARIANT, Path(__file__)]
    return repr([(path.name, path.read_text()) for path in sources]) + run(nvcc() or "nvcc", "--version")


def cached(csrc: Path, cache: Path, variant: tuple[int, str, str]) -> list[Row]:
    """The rows of a variant: measured, or what was measured before."""
    path = cache / f"{hashlib.sha256(repr((variant, everything(csrc))).encode()).hexdigest()}.json"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps([asdict(row) for row in measure(csrc, *variant)]))
        part.replace(path)
    return [Row(**row) for row in json.loads(path.read_text())]


def rows(csrc: Path, only: str, cache: Path) -> Iterator[Row]:
    """Every kernel of every variant on every architecture, in order; what is not in the cache is compiled."""
    cache.mkdir(parents=True, exist_ok=True)
    variants = [
        (head_dim, kind, arch) for head_dim in HEAD_DIMS for kind in TYPES for arch in ARCHS
        if only in f"d{head_dim} {kind}"
    ]  # fmt: skip
    with ThreadPoolExecutor(PROCESSES) as pool:
        for found in pool.map(lambda variant: cached(csrc, cache, variant), variants):
            yield from found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="variants whose name has this in it, such as 'd40 half'")
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "cuda_gate", help="where rows are kept")
    parser.add_argument("--csrc", type=Path, default=CSRC, help="other sources than the library's")
    arguments = parser.parse_args()
    if nvcc() is None:
        print("cuda gate: not run, nvcc is not installed here")
        return 0
    found = list(rows(arguments.csrc, arguments.only, arguments.cache))
    if not found:
        print(f"cuda gate: no variant has {arguments.only!r} in its name", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
    else:
        print(" arch  reg stack spill   smem  hmma variant")
        for row in found:
            numbers = f"{row.registers:>4} {row.stack:>5} {row.spills:>5} {row.shared:>6} {row.hmma:>5}"
            print(f"sm_{row.arch} {numbers} {row.variant}, {row.kernel}")
    faults = [f"sm_{row.arch} {row.variant}, {row.kernel}: {', '.join(row.faults)}" for row in found if row.faults]
    print(*faults, f"cuda gate: {len(found)} rows, {len(faults)} at fault", sep="\n", file=sys.stderr)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())

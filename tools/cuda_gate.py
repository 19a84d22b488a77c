"""Build the CUDA module for GPUs that are not here, and fail on what makes a kernel slow or unfit to run.

    .venv/bin/python tools/cuda_gate.py [--only d40] [--json]

First it builds fewstep_kernels._C as `make build` does, by setup.py, and imports it: a source that does not compile,
link or load ends the gate. Then it compiles every variant by itself.

A row fails where a kernel spills registers or has a stack, asks for more shared memory than its devices give a block
(all from sm_80 on; of sm_90a's, Hopper), does without tensor cores, waits for each wgmma before the next, or starts
with other registers than those that setmaxnreg's sums count on. Rows are kept in build/cuda_gate under a hash of all
they depend on.
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
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "csrc"))
from cuda_build import nvcc  # noqa: E402
from ninja_build import CSRC, DESIGNS, HEAD_DIMS, TYPES, VARIANTS, designs, variant_flags  # noqa: E402

PROCESSES = 2
USAGE = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)
# In a mangled name: four numbers, and a design of sm_90a.
SHAPE = re.compile(r"ShapeILi(\d+)ELi(\d+)ELi(\d+)ELi(\d+)E(?:NS\w?_\d+([A-Z]\w*?)E)?")
SERIALIZED = re.compile(r"wgmma.* serialized .*function '?(?P<name>\w+)")  # ptxas gave up: each product is waited for
FUNCTION = re.compile(r"Function : (\w+)")


@dataclass(frozen=True)
class Kernel:
    """One of the kernels, as it is compiled and judged."""

    arch: str
    max_shared: int  # bytes of a block
    instruction: str  # of the tensor cores: without it there is no point
    shape: str  # what the second, third and fourth number of a Shape say


KERNELS = {  # 101376: what a block may have on sm_86, sm_89 and sm_120
    "sm80": Kernel("80", 101376, "HMMA.16816", "{}x16 rows a warp, {} keys a tile, {} stages"),
    "sm90": Kernel("90a", 232448, "HGMMA", "{} consumers, {} keys a tile, {} stages"),
}


class Variant(NamedTuple):
    """What one run of nvcc makes."""

    kernel: str
    head_dim: int
    kind: str
    design: str

    @property
    def name(self) -> str:
        """Without the kernel; the default design goes without saying."""
        return f"d{self.head_dim} {self.kind}" + ("" if self.design == "Exact" else f" {self.design}")


def variants(csrc: Path) -> list[Variant]:
    """All of them, in order, with those that are only there to be measured."""
    source = csrc / DESIGNS.relative_to(CSRC)
    return [
        Variant(kernel, head_dim, kind, design)
        for kernel in KERNELS for head_dim in HEAD_DIMS for kind in TYPES
        for design in designs(kernel, head_dim, kind, sweep=True, source=source)
    ]  # fmt: skip


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
    mma: int  # instructions of the tensor cores: HMMA, or HGMMA on sm_90a
    serialized: bool = False  # wgmma: each product is waited for before the next
    start: int = 0  # registers that the sums of setmaxnreg count on; 0: the kernel does without it

    @property
    def faults(self) -> list[str]:
        """Why it may not pass, in words."""
        (of,) = [kernel for kernel in KERNELS.values() if kernel.arch == self.arch]
        found = [f"{self.spills} bytes of spills"] if self.spills else []
        found += [f"a stack of {self.stack} bytes"] if self.stack else []
        found += [f"{self.shared} bytes of shared memory, over {of.max_shared}"] if self.shared > of.max_shared else []
        found += ["wgmma is serialized"] if self.serialized else []
        if self.start not in (0, self.registers):
            found.append(f"{self.registers} registers where setmaxnreg counts on {self.start}: it would wait for ever")
        return found + ([] if self.mma else [f"no {of.instruction.split('.')[0]}"])


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


def build(root: Path, library: Path) -> None:
    """What `make build` does, but for where the module goes: setup.py builds it, and looks whether it loads."""
    library.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(library)]
    done = subprocess.run(
        command, cwd=root, env=os.environ | {"FEWSTEP_BUILD_CUDA": "1"}, capture_output=True, text=True
    )
    built = list(library.glob("fewstep_kernels/_C.*.so"))
    if done.returncode or not built:
        sys.exit(f"cuda gate: fewstep_kernels._C does not build\n{done.stdout}{done.stderr}")
    print(done.stdout, end="", file=sys.stderr)


def mma_counts(cubin: Path, instruction: str) -> dict[str, int]:
    """How many of the instructions each function of a cubin has."""
    _, *functions = FUNCTION.split(run(tool("cuobjdump"), "--dump-sass", cubin))
    return {name: body.count(instruction) for name, body in zip(functions[::2], functions[1::2], strict=True)}


def sizes(csrc: Path, kernel: str, shapes: list[tuple[str, ...]], scratch: Path) -> list[tuple[int, int]]:
    """Shared memory and start registers of each shape, as a program of the host's compiler prints them."""
    source, program = scratch / "sizes.cpp", scratch / "sizes"
    start = "Shape<{}>::kStartRegisters" if kernel == "sm90" else "0"
    calls = "".join(
        f'std::printf("%zu %d\\n", Shape<{of}>::kSharedBytes, {start.format(of)});'
        for of in (",".join(filter(None, shape)) for shape in shapes)
    )
    head = f'#include <cstdio>\n#include "{csrc}/attention/{kernel}/shape.h"\nusing namespace attention::{kernel};\n'
    source.write_text(f"{head}int main() {{ {calls} }}\n")
    run(os.environ.get("CXX", "g++"), "-std=c++17", source, "-o", program)
    shared, registers = zip(*(map(int, line.split()) for line in run(program).splitlines()), strict=True)
    return list(zip(shared, registers, strict=True))


def compiled(csrc: Path, variant: Variant, cubin: Path, *more: str) -> str:
    """Compile a variant, with more flags if there are any, and give back what ptxas printed."""
    kernel, head_dim, kind, design = variant
    arch = KERNELS[kernel].arch
    flags = ["-std=c++17", "-O3", "-gencode", f"arch=compute_{arch},code=sm_{arch}", "-Xptxas", "-v", "-cubin"]
    flags += [*variant_flags(head_dim, kind, design), *more]
    return run(nvcc() or "nvcc", *flags, csrc / VARIANTS[kernel], "-o", cubin)


def measure(csrc: Path, variant: Variant) -> list[Row]:
    """Compile one variant of a kernel and read what came of each of its shapes."""
    kernel = KERNELS[variant.kernel]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        cubin = scratch / "variant.cubin"
        printed = compiled(csrc, variant, cubin)
        used = [each.groupdict() for each in USAGE.finditer(printed)]
        serialized = {each["name"] for each in SERIALIZED.finditer(printed)}
        mma = mma_counts(cubin, kernel.instruction)
        shapes = [SHAPE.search(each["name"]).groups() for each in used]
        found = sizes(csrc, variant.kernel, shapes, scratch)
    return [
        Row(
            variant=variant.name,
            kernel=kernel.shape.format(*shape[1:4]),
            arch=kernel.arch,
            registers=int(each["registers"]),
            stack=int(each["stack"]),
            spills=int(each["stores"]) + int(each["loads"]),
            shared=shared,
            mma=mma[each["name"]],
            serialized=each["name"] in serialized,
            start=start,
        )
        for each, shape, (shared, start) in zip(used, shapes, found, strict=True)
    ]


@functools.cache
def everything(csrc: Path) -> str:
    """What all rows depend on: the sources, this file, the compiler."""
    sources = [*sorted(csrc.rglob("*.h")), *(csrc / path for path in VARIANTS.values()), Path(__file__)]
    return repr([(path.name, path.read_text()) for path in sources]) + run(nvcc() or "nvcc", "--version")


def cached(csrc: Path, cache: Path, variant: Variant) -> list[Row]:
    """The rows of a variant: measured, or what was measured before."""
    path = cache / f"{hashlib.sha256(repr((variant, everything(csrc))).encode()).hexdigest()}.json"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps([asdict(row) for row in measure(csrc, variant)]))
        part.replace(path)
    return [Row(**row) for row in json.loads(path.read_text())]


def rows(csrc: Path, only: str, cache: Path) -> Iterator[Row]:
    """Every shape of every variant of both kernels, in order; what is not in the cache is compiled."""
    cache.mkdir(parents=True, exist_ok=True)
    wanted = [each for each in variants(csrc) if only in f"{each.kernel} {each.name}"]
    with ThreadPoolExecutor(PROCESSES) as pool:
        for found in pool.map(lambda variant: cached(csrc, cache, variant), wanted):
            yield from found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default="", help="variants whose name has this in it, such as 'd40 half' or 'sm90 d40'"
    )
    parser.add_argument("--module", action="store_true", help="only build the module and import it")
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "cuda_gate", help="where rows are kept")
    parser.add_argument("--csrc", type=Path, default=CSRC, help="other sources than the library's")
    arguments = parser.parse_args()
    if nvcc() is None:
        print("cuda gate: NOT RUN, nvcc is not installed here: fewstep_kernels._C and its kernels are not compiled")
        return 0
    if not arguments.only or arguments.module:
        build(arguments.csrc.resolve().parent, arguments.cache.resolve() / "library")
    if arguments.module:
        return 0
    found = list(rows(arguments.csrc, arguments.only, arguments.cache))
    if not found:
        print(f"cuda gate: no variant has {arguments.only!r} in its name", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
    else:
        print("  arch  reg stack spill   smem   mma variant")
        for row in found:
            numbers = f"{row.registers:>4} {row.stack:>5} {row.spills:>5} {row.shared:>6} {row.mma:>5}"
            print(f"sm_{row.arch:<3} {numbers} {row.variant}, {row.kernel}")
    faults = [f"sm_{row.arch} {row.variant}, {row.kernel}: {', '.join(row.faults)}" for row in found if row.faults]
    print(*faults, f"cuda gate: {len(found)} rows, {len(faults)} at fault", sep="\n", file=sys.stderr)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())

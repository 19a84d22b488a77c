"""Compile every Triton kernel for GPUs that are not here, and fail on what makes one slow.

    .venv/bin/python tools/compile_gate.py [--arch 90] [--only group_norm] [--json]

A row fails where a kernel has a stack frame, reads or writes local memory, touches a tensor that is contiguous and
aligned by less than 128 bits at a time, or reads what the launch before it writes before it has waited for it. Rows
are kept in build/compile_gate under a hash of all they depend on.
"""

import argparse
import functools
import hashlib
import importlib.util
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptx import before_wait, pointer_widths

ROOT = Path(__file__).resolve().parent.parent
WIDE = 128  # bits: the widest access of one thread before sm_100
PROCESSES = 2
OPCODE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")  # of a line that cuobjdump prints


@dataclass(frozen=True)
class Case:
    """A variant to compile, the pointers that must be accessed by 128 bits: some, or all if None; the oldest arch."""

    variant: Any  # name, kernel, signature, constexprs, attrs, options: see fewstep_kernels.fused.variants
    wide: frozenset[str] | None
    oldest: int = 80


@dataclass(frozen=True)
class Row:
    """What one variant compiled to. `widths` has the narrowest access, in bits, to every pointer that threads index."""

    name: str
    kernel: str
    arch: int
    registers: int
    stack: int  # bytes a thread
    local: int  # loads and stores
    shared: int  # bytes a program
    load: int  # bits of the widest access to global memory, 0 for none
    store: int
    instructions: int
    widths: dict[str, int]
    narrow: list[str]  # pointers that had to be wide and are not
    dependency: list[str]  # what it tells or asks of the launches around it
    early: list[str]  # accesses that had to come after a wait and do not

    @property
    def faults(self) -> list[str]:
        """Why it may not pass, in words."""
        found = [f"a stack of {self.stack} bytes"] if self.stack else []
        found += [f"{self.local} accesses to local memory"] if self.local else []
        found += [f"{access} before the wait" for access in self.early]
        return found + [f"{name} by {self.widths.get(name, 0)} bits" for name in self.narrow]


@functools.cache
def cases(source: str | None) -> tuple[Case, ...]:
    """The cases of a file of planted kernels, or all that the library ships."""
    if source is not None:
        spec = importlib.util.spec_from_file_location(Path(source).stem, source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = module.variants()
    else:
        from fewstep_kernels.fused.layer_variants import layer_variants
        from fewstep_kernels.fused.variants import variants

        found = [*variants(), *layer_variants()]
    described = [Case(each, None if each.vectorised else each.wide) for each in found]
    return tuple(described if source else [*norm_cases(), *described])


# Channels, height, width and groups of maps that exist, and of ugly ones.
NORM_SHAPES = {
    "SD 64x64x320": (320, 64, 64, 32),
    "SD 32x32x1920": (1920, 32, 32, 32),
    "SD 16x16x1280": (1280, 16, 16, 32),
    "SD 8x8x1280": (1280, 8, 8, 32),
    "ADM 64x64x192": (192, 64, 64, 32),
    "CIFAR 32x32x128": (128, 32, 32, 32),
    "VAE 512x512x128": (128, 512, 512, 32),
    "VAE 1024x1024x128": (128, 1024, 1024, 32),
    "VAE 128x128x512": (512, 128, 128, 32),
    "63x21": (64, 63, 21, 32),
    "channels == groups": (32, 8, 8, 32),
    "one group": (6, 5, 3, 1),
    "one pixel": (64, 1, 1, 8),
    "one channel": (1, 40, 40, 1),
}
EVERYTHING = ("shift_before", "scale", "shift", "residual")
NORM_FORMS = (
    ("bfloat16", "channels-last", "all of it", EVERYTHING, list(NORM_SHAPES)),
    ("bfloat16", "channels-last", "plain", (), list(NORM_SHAPES)[:9]),
    ("bfloat16", "channels-last", "no silu", (), ["SD 64x64x320"]),
    ("bfloat16", "channels-last", "all of it, dependent", EVERYTHING, ["SD 64x64x320", "SD 32x32x1920", "63x21"]),
    ("float32", "contiguous", "all of it, dependent", EVERYTHING, ["SD 64x64x320"]),
    ("bfloat16", "contiguous", "all of it", EVERYTHING, ["SD 64x64x320", "SD 16x16x1280", "63x21"]),
    ("float32", "channels-last", "all of it", EVERYTHING, ["SD 64x64x320", "SD 16x16x1280", "SD 8x8x1280", "63x21"]),
    ("float32", "contiguous", "all of it", EVERYTHING, ["SD 64x64x320", "SD 8x8x1280"]),
    ("float16", "channels-last", "all of it", EVERYTHING, ["SD 64x64x320", "SD 8x8x1280"]),
)


def norm_cases() -> Iterator[Case]:
    """The launches of group_norm_silu: x, out and residual must be wide wherever a tile has that much for a thread."""
    import torch

    from fewstep_kernels.fused.norms import group_norm_silu_launches
    from fewstep_kernels.fused.variants import variant

    for dtype, layout, form, given, shapes in NORM_FORMS:
        for shape in shapes:
            C, H, W, groups = NORM_SHAPES[shape]
            memory = torch.channels_last if layout == "channels-last" else torch.contiguous_format
            x = torch.empty((2, C, H, W), dtype=getattr(torch, dtype), device="meta").to(memory_format=memory)
            of_channels, of_samples = x.new_empty(C), x.new_empty(2, 2 * C)[:, :C]
            options = {name: x if name == "residual" else of_samples for name in given} | {"silu": form != "no silu"}
            options["dependent"] = form.endswith("dependent")
            for launch in group_norm_silu_launches(x, x, of_channels, of_channels, groups, 1e-5, **options):
                vector = WIDE // 8 // x.element_size()
                run = C if layout == "channels-last" else H * W
                tile = launch.constants["BLOCK_L"] * launch.constants["BLOCK_C"]
                whole = run % vector == 0 and tile >= 32 * launch.num_warps * vector
                wide = frozenset({"x_ptr", "out_ptr", "residual_ptr"}) if whole else frozenset()
                described = variant(f"group_norm_silu {shape} {dtype} {layout}, {form}", launch)
                yield Case(described, wide, 90 if options["dependent"] else 80)


def _identity(variant: Any) -> str:
    """All that the compiler's result depends on, apart from the target and the compiler."""
    described = [variant.kernel.cache_key, variant.signature, variant.constexprs, variant.attrs, variant.options]
    return repr([sorted(each.items(), key=repr) if isinstance(each, dict) else each for each in described])


def tools() -> Path:
    """The folder of the CUDA tools inside the triton package."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def measure(source: str | None, index: int, arch: int) -> Row:
    """Compile one case for one architecture and read the result."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    case = cases(source)[index]
    variant = case.variant
    kernel = triton.compile(
        ASTSource(variant.kernel, variant.signature, variant.constexprs, variant.attrs),
        target=GPUTarget("cuda", arch, 32),
        options=variant.options,
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        usage, sass = (
            subprocess.run([tools() / "cuobjdump", what, cubin.name], check=True, capture_output=True, text=True).stdout
            for what in ("--dump-resource-usage", "--dump-sass")
        )
    used = {key: int(value) for key, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    opcodes = [each for each in OPCODE.findall(sass) if each != "NOP"]
    widths = pointer_widths(kernel.asm["ptx"], parameters(variant))
    widths = {name: bits for name, bits in widths.items() if not name.startswith("=")}
    wide = set(widths) or {"any tensor"} if case.wide is None else case.wide & set(parameters(variant))
    before = before_wait(kernel.asm["ptx"], parameters(variant)) if variant.awaits else []
    return Row(
        name=variant.name,
        kernel=variant.kernel.__name__,
        arch=arch,
        registers=used["REG"],
        stack=used["STACK"],
        local=sum(opcode.startswith(("LDL", "STL")) for opcode in opcodes),
        shared=kernel.metadata.shared,
        load=max((sass_bits(opcode) for opcode in opcodes if opcode.startswith("LDG")), default=0),
        store=max((sass_bits(opcode) for opcode in opcodes if opcode.startswith("STG")), default=0),
        instructions=len(opcodes),
        widths=widths,
        narrow=sorted(name for name in wide if widths.get(name, 0) < WIDE),
        dependency=re.findall(r"griddepcontrol\.\w+", kernel.asm["ptx"]),
        early=[access for access in before if access.startswith("st") or access.split()[1] in variant.awaits],
    )


def sass_bits(opcode: str) -> int:
    """LDG.E.128 -> 128, LDG.E.U16 -> 16, LDG.E -> 32."""
    return next((int(bits) for bits in re.findall(r"\.[US]?(8|16|64|128|256)\b", opcode)), 32)


def parameters(variant: Any) -> list[str]:
    """The names of the compiled kernel's parameters, in order; a number's name begins with "="."""

    def flat(name: str, kind: Any) -> Iterator[str]:
        if isinstance(kind, tuple):
            for each in kind:
                yield from flat(name, each)
        elif kind != "constexpr":
            yield name if kind[0] == "*" else f"={name}"

    return [name for argument, kind in variant.signature.items() for name in flat(argument, kind)]


def digest(source: str | None, index: int, arch: int) -> str:
    """The hash of all that a row depends on."""
    import triton

    case = cases(source)[index]
    depends = [_identity(case.variant), case.variant.name, case.wide and sorted(case.wide), arch, triton.__version__]
    depends += case.variant.awaits
    own = Path(__file__).read_bytes() + Path(__file__).with_name("ptx.py").read_bytes()
    return hashlib.sha256(repr(depends).encode() + own).hexdigest()


def rows(source: str | None, only: str, archs: list[int], cache: Path) -> Iterator[Row]:
    """Every case on every architecture, in order; what is not in the cache is compiled by two processes."""
    cache.mkdir(parents=True, exist_ok=True)
    named = [(index, case) for index, case in enumerate(cases(source)) if only in case.variant.name]
    wanted = [(index, arch) for index, case in named for arch in archs if arch >= case.oldest]
    paths = [cache / f"{digest(source, *each)}.json" for each in wanted]
    missing = [(each, path) for each, path in zip(wanted, paths, strict=True) if not path.exists()]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TRITON_CACHE_DIR"] = scratch  # inherited; what is worth keeping is the row
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(PROCESSES, mp_context=spawn) as pool:
            pending = [(path, pool.submit(measure, source, *each)) for each, path in missing]
            for path, row in pending:
                part = path.with_suffix(f".{os.getpid()}")
                part.write_text(json.dumps(asdict(row.result())))
                part.replace(path)
    yield from (Row(**json.loads(path.read_text())) for path in paths)


COLUMNS = {
    "arch": "arch", "registers": "reg", "stack": "stack", "local": "local", "shared": "smem", "load": "ld",
    "store": "st", "instructions": "instr",
}  # fmt: skip


def table(found: list[Row]) -> str:
    """The rows under one header; bytes a thread, accesses, bytes a program, bits, bits."""
    width = max(len(row.name) for row in found)
    titles = [f"{title:>5}" for title in COLUMNS.values()]
    lines = [" ".join([*titles, f"{'variant':{width}}  narrowest access to each tensor"])]
    for row in found:
        numbers = (f"{getattr(row, column):>5}" for column in COLUMNS)
        widths = ", ".join(f"{name.removesuffix('_ptr')} {bits}" for name, bits in row.widths.items())
        lines.append(" ".join([*numbers, f"{row.name:{width}}  {row.kernel}: {widths}"]))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, action="append", help="80, 90 or 100; all that triton has by default")
    parser.add_argument("--only", default="", help="variants whose name has this in it")
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "compile_gate", help="where rows are kept")
    parser.add_argument("--variants", help="a Python file with variants() of its own, instead of the library's")
    arguments = parser.parse_args()
    if importlib.util.find_spec("triton") is None:
        print("compile gate: not run, triton is not installed here")
        return 0
    os.environ.pop("TRITON_INTERPRET", None)  # an interpreted kernel has nothing to compile
    sys.path.insert(0, str(ROOT / "kernels"))
    archs = arguments.arch or [80, 90, *([100] if (tools() / "ptxas-blackwell").exists() else [])]
    found = list(rows(arguments.variants, arguments.only, archs, arguments.cache))
    if not found:
        print(f"compile gate: no variant has {arguments.only!r} in its name", file=sys.stderr)
        return 1
    print(json.dumps([asdict(row) for row in found], indent=1) if arguments.json else table(found))
    faults = [f"sm_{row.arch} {row.kernel}, {row.name}: {', '.join(row.faults)}" for row in found if row.faults]
    print(*faults, f"compile gate: {len(found)} rows, {len(faults)} at fault", sep="\n", file=sys.stderr)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())

"""Count what the loops of Hopper's attention kernels issue, design beside design; nothing is run.

    .venv/bin/python tools/sass_counts.py [--only d40]

For each design nvcc compiles the kernel for sm_90a, and cuobjdump shows its machine code. The loop over tiles of keys
is the innermost that multiplies on tensor cores; a kernel for keys in one tile is counted over its loop over tiles of
queries. Counted are the instructions of one warp for one tile, those that a branch jumps over too. `exposed` are those
between the wait for p v and the next product: meanwhile the warp has neither exponentials nor products under way.
"""

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from cuda_gate import CSRC, FUNCTION, SHAPE, Variant, compiled, nvcc, run, tool, variants  # noqa: E402

LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+ )?([^;]*);", re.MULTILINE)
BRANCH = re.compile(r"BRA (?:\w+, )?0x([0-9a-f]+)")
SHOWN = ("FMNMX", "FFMA", "MUFU", "FADD", "FMUL", "F2FP", "SHFL", "HGMMA")
PV_IS_DONE, PRODUCT = "WARPGROUP.DEPBAR.LE gsb0, 0x0", "HGMMA"


class Instruction(NamedTuple):
    """One line of machine code."""

    address: int
    condition: str
    text: str

    @property
    def name(self) -> str:
        """What it does, without its modifiers."""
        return self.text.split(" ")[0].split(".")[0]

    @property
    def target(self) -> int | None:
        """Where it branches to."""
        found = BRANCH.match(self.text)
        return int(found[1], 16) if found else None


class Loop(NamedTuple):
    """What one warp issues for one tile."""

    counts: dict[str, float]
    total: float
    exposed: dict[str, float]  # between the wait for p v and the next product


def instructions(sass: str) -> list[Instruction]:
    """The lines of one function."""
    return [Instruction(int(address, 16), condition, text.strip()) for address, condition, text in LINE.findall(sass)]


def multiplying_loops(code: Sequence[Instruction]) -> list[list[Instruction]]:
    """The loops with a product in them, the smallest first; what branches back unconditionally comes from a wait."""
    found = []
    for last, each in enumerate(code):
        if each.condition and each.target is not None and each.target <= each.address:
            body = [other for other in code[: last + 1] if other.address >= each.target]
            if any(other.name == PRODUCT for other in body):
                found.append(body)
    return sorted(found, key=len)


def is_of_keys(instruction: Instruction) -> bool:
    """A product with keys: both operands lie in shared memory, neither transposed."""
    return instruction.name == PRODUCT and "tnspB" not in instruction.text


def exposed(body: Sequence[Instruction]) -> Counter[str]:
    """What stands between the wait for p v and the next product with keys, once round the loop for each."""
    found: Counter[str] = Counter()
    for start, each in enumerate(body):
        if each.text == PV_IS_DONE:
            for after in [*body[start + 1 :], *body[:start]]:
                if after.name == PRODUCT:
                    break
                found[after.name] += 1
    return found


def loop_over_keys(code: Sequence[Instruction], head_dim: int) -> Loop:
    """The innermost loop, for one tile of keys: a packed design's takes two tiles in one round."""
    body = multiplying_loops(code)[0]
    tiles = sum(map(is_of_keys, body)) / -(-head_dim // 16)
    return _scaled(body, body, tiles)


def loop_over_queries(code: Sequence[Instruction]) -> Loop:
    """The outermost loop without those inside it, which keys in one tile never enter."""
    *inner, body = multiplying_loops(code)
    inside = {each.address for loop in inner if len(loop) < len(body) for each in loop}
    return _scaled([each for each in body if each.address not in inside], [], 1)


def _scaled(body: Sequence[Instruction], around: Sequence[Instruction], tiles: float) -> Loop:
    counts = Counter(each.name for each in body)
    return Loop(
        {name: counts[name] / tiles for name in SHOWN},
        len(body) / tiles,
        {name: number / tiles for name, number in exposed(around).items()},
    )


def functions(variant: Variant, csrc: Path = CSRC) -> Iterator[tuple[tuple[str, ...], list[Instruction]]]:
    """The shape and the code of each kernel that a variant has."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "variant.cubin"
        compiled(csrc, variant, cubin)
        _, *parts = FUNCTION.split(run(tool("cuobjdump"), "--dump-sass", cubin))
    for name, sass in zip(parts[::2], parts[1::2], strict=True):
        yield SHAPE.search(name).groups(), instructions(sass)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="d40", help="variants whose name has this in it, such as 'd40' or 'Runs'")
    arguments = parser.parse_args()
    if nvcc() is None:
        print("sass counts: NOT RUN, nvcc is not installed here")
        return 0
    print(f"{'':34}" + "".join(f"{name:>7}" for name in (*SHOWN, "all")) + "   exposed FMUL, F2FP, all")
    for variant in variants(CSRC):
        if variant.kernel != "sm90" or variant.kind != "bfloat16" or arguments.only not in variant.name:
            continue
        for (_, consumers, keys, stages, _), code in functions(variant):
            one_tile = stages == "1"
            if not one_tile and consumers == "1":
                continue  # the same loop as that of two consumers, without turns
            loop = loop_over_queries(code) if one_tile else loop_over_keys(code, variant.head_dim)
            label = f"{variant.name.replace(' bfloat16', '')}, {keys} keys" + (" in one tile" if one_tile else "")
            numbers = "".join(f"{value:7.0f}" for value in (*loop.counts.values(), loop.total))
            of = [loop.exposed.get(name, 0) for name in ("FMUL", "F2FP")]
            after = "" if one_tile else f"{of[0]:10.0f}{of[1]:6.0f}{sum(loop.exposed.values()):5.0f}"
            print(f"{label:34}{numbers}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

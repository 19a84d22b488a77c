"""Convolutions and linears of U-Nets on a CPU, with torch's own weights and with packed ones: where packing pays.

    export PYTHONPATH=engine:kernels
    python benchmarks/packing.py                                    a table, about a minute on one thread
    python benchmarks/packing.py --out benchmarks/results/NAME      packing.csv too

Times are CPU seconds of the calling thread, so what else the machine does does not count; the two take turns. `packed`
is what `fewstep.run.backends.packed.worth_packing` makes of the shape, which this table decided. `differs` is the
relative L2 difference of the two answers; nothing is printed for a shape where it is beyond the backend's bound.
"""

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from fewstep.run.backends.packed import worth_packing
from fewstep.run.backends.parity import BOUNDS

ROUNDS, DISCARDED = 25, 5
CONVOLUTIONS = (  # lanes, channels in and out, side, kernel, stride
    *((1, 16, 16, side, 3, 1) for side in (8, 16, 32)),
    *((1, 96, 96, side, 3, 1) for side in (4, 8)),
    (1, 192, 96, 4, 1, 1),
    (1, 64, 64, 16, 3, 1),
    (1, 32, 32, 32, 3, 1),
    *((1, 256, 256, side, 3, 1) for side in (4, 8, 16, 32)),
    (1, 256, 256, 16, 3, 2),
    *((1, 512, 256, side, 1, 1) for side in (4, 8, 16, 32)),
    (1, 128, 128, 64, 3, 1),
    *((4, 256, 256, side, 3, 1) for side in (4, 8, 16, 32)),
    *((8, 96, 96, side, 3, 1) for side in (4, 8)),
    (8, 64, 64, 16, 3, 1),
)
LINEARS = (  # rows, channels in and out
    (1, 128, 1440),
    (1, 512, 512),
    (1, 512, 11008),
    (16, 96, 288),
    (16, 256, 768),
    (128, 96, 288),
    (256, 256, 768),
    (1024, 320, 320),
    (1024, 256, 768),
    (4096, 320, 1280),
)
COLUMNS = (
    "layer",
    "lanes",
    "in",
    "out",
    "side",
    "kernel",
    "stride",
    "dtype",
    "torch_us",
    "packed_us",
    "ratio",
    "differs",
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a folder for packing.csv")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    with torch.no_grad():
        for row in measured():
            rows.append(row)
            print(*(f"{row[name]!s:>9}" for name in (*COLUMNS, "packed")), flush=True)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        with (arguments.out / "packing.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, (*COLUMNS, "packed"), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return 0


def measured() -> Iterator[dict[str, object]]:
    """A row for each shape and dtype."""
    print(*(f"{name:>9}" for name in (*COLUMNS, "packed")))
    for dtype in (torch.float32, torch.bfloat16):
        for lanes, inner, outer, side, kernel, stride in CONVOLUTIONS:
            told = ("conv", lanes, inner, outer, side, kernel, stride)
            weight, rows = torch.Size([outer, inner, kernel, kernel]), lanes * (side // stride) ** 2
            yield from row(told, dtype, convolutions(dtype, *told[1:]), worth_packing(weight, rows, dtype))
        for rows, inner, outer in LINEARS:
            told = ("linear", rows, inner, outer, 1, 1, 1)
            taken = worth_packing(torch.Size([outer, inner]), rows, dtype)
            yield from row(told, dtype, linears(dtype, rows, inner, outer), taken)


def row(
    told: tuple[object, ...], dtype: torch.dtype, calls: tuple[Callable[[], Tensor], Callable[[], Tensor]], taken: bool
) -> Iterator[dict[str, object]]:
    """The times of two calls that answer the same; nothing where they do not."""
    ours, theirs = calls[1]().double(), calls[0]().double()
    differs = float((ours - theirs).norm() / theirs.norm())
    if not differs <= BOUNDS[dtype]:
        print(f"{told}: differs by {differs:.1e}", file=sys.stderr)
        return
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for call, times in zip(calls, spent, strict=True):
            started = time.thread_time()
            call()
            times.append(1e6 * (time.thread_time() - started))
    plain, packed = (statistics.median(times[DISCARDED:]) for times in spent)
    found = (str(dtype).removeprefix("torch."), round(plain), round(packed), round(plain / packed, 2), f"{differs:.0e}")
    yield {**dict(zip(COLUMNS, (*told, *found), strict=True)), "packed": "yes" if taken else "no"}


def convolutions(
    dtype: torch.dtype, lanes: int, inner: int, outer: int, side: int, kernel: int, stride: int
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """torch's convolution in channels-last memory, and the packed one."""
    x = torch.randn(lanes, inner, side, side).to(dtype, memory_format=torch.channels_last)
    dense = (torch.randn(outer, inner, kernel, kernel) / (inner * kernel**2) ** 0.5).to(dtype)
    weight, bias = dense.to(memory_format=torch.channels_last), torch.randn(outer).to(dtype)
    way = ([kernel // 2] * 2, [stride] * 2, [1, 1], 1)
    packed = torch.ops.mkldnn._reorder_convolution_weight(dense, *way, list(x.shape))
    return (
        lambda: functional.conv2d(x, weight, bias, stride, kernel // 2),
        lambda: torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *way, "none", [], ""),
    )


def linears(dtype: torch.dtype, rows: int, inner: int, outer: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """torch's linear, and the packed one."""
    x = torch.randn(rows, inner).to(dtype)
    weight, bias = (torch.randn(outer, inner) / inner**0.5).to(dtype), torch.randn(outer).to(dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return (
        lambda: functional.linear(x, weight, bias),
        lambda: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], ""),
    )


if __name__ == "__main__":
    sys.exit(main())

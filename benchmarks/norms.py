"""group_norm_silu against torch's GroupNorm + SiLU, eager and compiled, over the maps of real U-Nets.

    PYTHONPATH=engine:kernels python benchmarks/norms.py [--out build/norms] [--sweep] [--dry-run]

Every row is checked against float64 before it is timed. Times are of the device alone: each contender is captured in a
CUDA graph of its own and replayed, the contenders in turn. GB/s counts one read and one write of x, whatever was read;
`of copy` is the time of torch's copy of the same tensor over ours. `dependent` is ours with a second launch that begins
while the first ends, on maps that take two and GPUs that can; it must give the same bits. --sweep times other launch
settings than the library's. --dry-run walks all of it on a CPU, in Triton's interpreter, with small maps and without
timing.
"""

import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from measure import Report, captured, describe, in_turn, put_kernels_in_place, script_options
from torch import Tensor
from torch.nn import functional

import fewstep_kernels

# Batch, channels, height, width; 32 groups, as all of these have. A batch of two is one guided image.
SHAPES = {
    "SD 64x64": (2, 320, 64, 64),
    "SD 64x64 joined": (2, 640, 64, 64),
    "SD 32x32": (2, 640, 32, 32),
    "SD 32x32 joined": (2, 1920, 32, 32),
    "SD 16x16": (2, 1280, 16, 16),
    "SD 16x16 joined": (2, 2560, 16, 16),
    "SD 8x8": (2, 1280, 8, 8),
    "SDXL 128x128": (2, 320, 128, 128),
    "SDXL 128x128 joined": (2, 960, 128, 128),
    "SDXL 64x64": (2, 640, 64, 64),
    "SDXL 32x32": (2, 1280, 32, 32),
    "CIFAR 32x32": (16, 128, 32, 32),
    "CIFAR 16x16": (16, 256, 16, 16),
    "VAE 256x256": (1, 512, 256, 256),
    "VAE 512x512": (1, 256, 512, 512),
    "VAE 1024x1024": (1, 128, 1024, 1024),
}
TINY = {"8x8": (2, 64, 8, 8), "63x21": (1, 64, 63, 21)}
GROUPS, EPS = 32, 1e-5
CALLS, ROUNDS = 20, 25  # calls in one graph; replays of each, in turn
SWEEP = {
    "_TILE": (2048, 4096, 8192),
    "_SLABS": (64, 128, 256),
    "_SLOTS": (1024, 2048),
    "_WHOLE_BYTES": (8192, 32768),
    "_DEPENDENT": (False, True),
}

Norm = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return fewstep_kernels.group_norm_silu(x, weight, bias, GROUPS, EPS)


def dependent(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Ours, the second launch dependent on the first where the device can."""
    from fewstep_kernels.fused.launch import has_dependent_launches
    from fewstep_kernels.fused.norms import group_norm_silu_launches

    out, can = torch.empty_like(x), has_dependent_launches(x.device)
    for launch in group_norm_silu_launches(out, x, weight, bias, GROUPS, EPS, dependent=can):
        launch.run()
    return out


def takes_two_launches(x: Tensor) -> bool:
    """Whether there is a second launch."""
    from fewstep_kernels.fused import norms

    cut = (norms._TILE, norms._WHOLE_BYTES)  # what a sweep sets
    return not norms.settings(x.shape[1], x.shape[2] * x.shape[3], GROUPS, x.element_size(), True, *cut).whole


def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.silu(functional.group_norm(x, GROUPS, weight, bias, EPS))


def errors(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[float, float, float]:
    """The largest error of ours and of torch's, against float64; and what ours may be: twice torch's, plus one eps."""
    exact = eager(x.double(), weight.double(), bias.double())
    mine, theirs = ((norm(x, weight, bias).double() - exact).abs().max().item() for norm in (ours, eager))
    slack = torch.finfo(x.dtype).eps * max(1.0, exact.abs().max().item())
    return mine, theirs, 2 * theirs + slack


def microseconds(contenders: dict[str, Callable[[], object]], device: torch.device) -> dict[str, list[float]]:
    """Device time of one call of each, `ROUNDS` samples: replays of one graph of `CALLS` calls, in turn."""
    graphs = {name: captured(call, CALLS) for name, call in contenders.items()}
    samples = in_turn({name: graph.replay for name, graph in graphs.items()}, device, ROUNDS)
    return {name: [1e6 * each / CALLS for each in times] for name, times in samples.items()}


def measured(name: str, shape: tuple[int, ...], device: torch.device, report: Report) -> dict[str, Any]:
    """A row: the errors and, on a GPU and where they are as they may be, the times."""
    generator = torch.Generator(device).manual_seed(0)
    timing = device.type == "cuda"
    x = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16 if timing else torch.float32)
    x = x.to(memory_format=torch.channels_last)
    weight, bias = (torch.rand(shape[1], generator=generator, device=device, dtype=x.dtype) for _ in range(2))
    mine, theirs, allowed = errors(x, weight, bias)
    row = {"map": name, "shape": list(shape), "error": mine, "torch_error": theirs}
    holds = report.check(f"{name}: an error of {mine:.2e}, allowed {allowed:.2e}", mine <= allowed)
    if takes_two_launches(x):
        same = all(torch.equal(dependent(x, weight, bias), ours(x, weight, bias)) for _ in range(20 if timing else 1))
        holds &= report.check(f"{name}: a dependent launch gives other bits", same)
    return row | times(x, weight, bias) if timing and holds else row


def times(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, float]:
    """Median and spread of each contender, and what they say about ours."""
    from fewstep_kernels.fused.launch import has_dependent_launches

    torch.compiler.reset()
    compiled, out = torch.compile(eager, dynamic=False), torch.empty_like(x)
    contenders = {
        "ours": lambda: ours(x, weight, bias),
        "eager": lambda: eager(x, weight, bias),
        "compiled": lambda: compiled(x, weight, bias),
        "copy": lambda: out.copy_(x),
    }
    if takes_two_launches(x) and has_dependent_launches(x.device):
        contenders["dependent"] = lambda: dependent(x, weight, bias)
    samples = microseconds(contenders, x.device)
    found = {f"{name}_us": statistics.median(values) for name, values in samples.items()}
    found |= {f"{name}_spread_us": max(values) - min(values) for name, values in samples.items()}
    found["gb_s"] = 2 * x.nbytes / found["ours_us"] / 1e3
    found["of_copy"] = found["copy_us"] / found["ours_us"]
    return found


def shown(row: dict[str, Any]) -> str:
    head = f"{row['map']:20} {'x'.join(map(str, row['shape'])):18} error {row['error']:.1e} / {row['torch_error']:.1e}"
    if "ours_us" not in row:
        return f"{head}  not timed"
    names = [name for name in ("ours", "dependent", "eager", "compiled") if f"{name}_us" in row]
    medians = " ".join(f"{name} {row[f'{name}_us']:7.1f} ±{row[f'{name}_spread_us'] / 2:4.1f}" for name in names)
    gain = min(row["eager_us"], row["compiled_us"]) / row["ours_us"]
    return (
        f"{head}  us {medians} | {row['gb_s']:6.0f} GB/s {row['of_copy']:4.0%} of copy | {gain:.2f}x the better torch"
    )


def sweep(shapes: dict[str, tuple[int, ...]], device: torch.device, report: Report) -> Iterator[str]:
    """For every map, the library's settings and the best of all; a dry run has no times."""
    from fewstep_kernels.fused import norms

    default = {name: getattr(norms, name) for name in SWEEP}
    every = list(itertools.product(*SWEEP.values())) if device.type == "cuda" else []
    for name, shape in shapes.items():
        found: dict[tuple[int, ...], float] = {}
        for values in [tuple(default.values()), *every]:
            for constant, value in zip(SWEEP, values, strict=True):
                setattr(norms, constant, value)
            norms.settings.cache_clear()
            found[values] = measured(name, shape, device, report).get("ours_us", math.nan)
        own, best = found[tuple(default.values())], min(found, key=found.__getitem__)
        yield f"{name:20} {own:7.1f} us; best {found[best]:7.1f} us with {dict(zip(SWEEP, best, strict=True))}"
    for constant, value in default.items():
        setattr(norms, constant, value)
    norms.settings.cache_clear()


def main() -> int:
    """All of it."""
    options = script_options(__doc__.splitlines()[0], flags={"sweep": "launch settings instead of contenders"})
    put_kernels_in_place(options.device.type)
    shapes = TINY if options.dry_run else SHAPES
    report = Report(options.out, describe(options.device))
    if options.sweep:
        for line in sweep(shapes, options.device, report):
            print(line, flush=True)
        return report.finish()
    for name, shape in shapes.items():
        report.rows.append(measured(name, shape, options.device, report))
        print(shown(report.rows[-1]), flush=True)
        report.save()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())

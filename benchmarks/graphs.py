"""The latency of `Engine.sample`, eager and by CUDA graph: ms an image, the time of a capture, the bytes of a graph.

    python benchmarks/graphs.py --out build/graphs         on an NVIDIA GPU
    python benchmarks/graphs.py --dry-run                  on a CPU, a small network, the recorder in the graph's place

The network is ours in the config of google/ddpm-cifar10-32, with RANDOM weights: for speed and parity, not pictures.
Parity comes first: the images of both must be the same bits, for two seeds, or there is no speed.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from measure import Report, Spread, capturer_for, describe, put_kernels_in_place, script_options, synchronize
from torch import nn

from fewstep import Engine, Model, schedules
from fewstep.bench.subjects import PRESETS, random_unet
from fewstep.run.graphs import Capturer, Graph, GraphRunner
from fewstep.run.runners import EagerRunner
from fewstep_kernels import STEP_OPS

PRESET = "cifar10-ddpm"
SMALL = {
    "sample_size": 4,
    "block_out_channels": [32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
}
BUDGET = 16 * 2**30


@dataclass
class TimedCapturer:
    """The capturer within, and how long its captures took, warm-up included."""

    inner: Capturer
    device: torch.device
    captured_in: float = 0.0

    def capture(self, work: Callable[[], None]) -> Graph:
        """That of the capturer within."""
        synchronize(self.device)
        started = time.perf_counter()
        graph = self.inner.capture(work)
        synchronize(self.device)
        self.captured_in = time.perf_counter() - started
        return graph

    def seconds(self, work: Callable[[], None]) -> float:
        """That of the capturer within."""
        return self.inner.seconds(work)


@dataclass(frozen=True)
class Pair:
    """One network under both runners."""

    eager: Engine
    graph: Engine
    runner: GraphRunner
    capturer: TimedCapturer

    @classmethod
    def of(cls, module: nn.Module, size: int, dtype: torch.dtype, device: torch.device) -> "Pair":
        """With the network in that dtype."""
        capturer = TimedCapturer(capturer_for(device), device)
        runner = GraphRunner(capturer, BUDGET)
        defaults = {"sampler": "ddpm", "steps": 4, "clip": 1.0}
        model = Model(module, schedule=schedules.linear(), shape=(3, size, size), defaults=defaults)
        # One network under both: on a CPU "auto" may give either of them another backend, whose bits are its own.
        options: dict[str, Any] = {"dtype": dtype, "device": device, "backend": "torch"}
        # The registered ops, as the graph captures.
        eager = Engine(model, runner=EagerRunner(STEP_OPS), **options)
        return cls(eager, Engine(model, runner=runner, **options), runner, capturer)


def sampling_time(engine: Engine, batch: int, steps: int, quick: bool) -> Spread:
    """The host's time around a request, the device idle before and after it: what a caller waits for."""
    least, seconds = (1, 0.0) if quick else (9, 0.5)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        started = time.perf_counter()
        engine.sample(batch, steps=steps, seeds=len(times))
        times.append(time.perf_counter() - started)
    low, median, high = torch.quantile(torch.tensor(times).double(), torch.tensor([0.1, 0.5, 0.9]).double()).tolist()
    return Spread(low=low, median=median, high=high, repeats=len(times))


def measure(pair: Pair, steps: int, batch: int, report: Report, quick: bool) -> None:
    """Two rows, after parity."""
    captures = pair.runner.stats()["captures"]
    pair.graph.warm_up([{"n": batch, "steps": steps}])
    about: dict[str, Any] = {"dtype": str(pair.eager.dtype).removeprefix("torch."), "steps": steps, "batch": batch}
    held = [graph for graph in pair.runner.stats()["graphs"] if graph["samples"] == batch and graph["unroll"] == steps]
    same = True
    for seed in (11, 12):
        wanted, found = (each.sample(batch, steps=steps, seeds=seed).images for each in (pair.eager, pair.graph))
        same &= torch.equal(wanted, found) and bool(torch.isfinite(found).all())
    if not report.check(f"graph and eager differ at {about}", same):
        report.rows.append(about | {"status": "wrong"})
        return
    report.check(f"one capture at {about}", pair.runner.stats()["captures"] == captures + 1)
    for name, engine in (("eager", pair.eager), ("graph", pair.graph)):
        found_time = sampling_time(engine, batch, steps, quick)
        row = about | {"runner": name, "status": "measured", "ms_per_image": 1e3 * found_time.median / batch}
        row |= {"ms_p10": 1e3 * found_time.low / batch, "ms_p90": 1e3 * found_time.high / batch}
        row |= {"repeats": found_time.repeats}
        if name == "graph":
            row |= {"capture_ms": 1e3 * pair.capturer.captured_in, "graph_bytes": held[0]["bytes"] if held else 0}
            row["status"] = "measured" if held else "no graph: it did not win, so this is eager too"
        report.rows.append(row)
        text = f"{row['ms_per_image']:8.3f} ms an image [{row['ms_p10']:.3f} to {row['ms_p90']:.3f}]"
        if name == "graph":
            text += f"  captured in {row['capture_ms']:.0f} ms, {row['graph_bytes'] / 2**20:.1f} MiB  {row['status']}"
        print(f"{about['dtype']:<10}{steps} steps  batch {batch}  {name:<6}{text}", flush=True)
    report.save()


def main(options: argparse.Namespace) -> int:
    """Every dtype, number of steps and batch."""
    device, dry_run = options.device, options.dry_run
    config = PRESETS[PRESET] | (SMALL if dry_run else {})
    report = Report(options.out, describe(device))
    report.about |= {"model": f"{PRESET}, RANDOM weights{', made small' if dry_run else ''}"}
    report.about["ops"] = put_kernels_in_place(device.type).origin
    print(f"{report.about['model']}{'; DRY RUN: these times say nothing' if dry_run else ''}")
    # float32 in the dry run: what the interpreter rounds to bfloat16 it truncates
    for dtype in (torch.float32,) if dry_run else (torch.bfloat16, torch.float32):
        module, _ = random_unet(config)
        pair = Pair.of(module, config["sample_size"], dtype, device)
        for steps, batch in [(1, 1), (2, 2)] if dry_run else itertools.product((1, 2, 4, 8), (1, 4)):
            measure(pair, steps, batch, report, quick=dry_run)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main(script_options(__doc__.splitlines()[0])))

"""All that happens between two U-Net calls: the fused kernels, the twin in plain torch, and torch.compile of the twin.

    python benchmarks/step.py --out build/step             on an NVIDIA GPU
    python benchmarks/step.py --dry-run                    on a CPU, tiny shapes

A run is begin_step, step_statistics where the plan needs it, and denoise_step, once per row of a plan, with a random
tensor as the U-Net's answer; eager, and as one CUDA graph. The numbers are of one step.

Parity comes first, against the twin in float64: a contender's error may be twice the float32 twin's, plus one eps; a
graph must equal its eager run bit by bit. What fails has no speed.

The share is of the copy bandwidth measured in the same process, at the fewest bytes the step can move: x read and
written in float32, every lane's answer read and next input written in bfloat16. `cached` says that all of it fits
the L2 cache, where a share above 1 is no wonder and one far below it is launch time.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from measure import (
    NOT_RUN,
    Report,
    capturer_for,
    copy_bandwidth,
    describe,
    put_kernels_in_place,
    relative_error,
    script_options,
    timed,
)
from torch import Tensor

import fewstep_kernels
from fewstep import schedules
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import Clip, make_plan
from fewstep.run.buffers import Place, Signature, StaticBuffers
from fewstep.run.graphs import Graph
from fewstep.run.sample import Sample, State
from fewstep_kernels import STREAM_STEP, reference
from fewstep_kernels.philox import philox4x32

OURS, TWIN, COMPILED = "fused", "twin", "compiled twin"
BASELINE_SECONDS = 20.0  # after so long no further case is compiled; --baseline-seconds=600 for all

Step = Callable[[StaticBuffers, Tensor], None]


@dataclass(frozen=True)
class Case:
    """What the step works on."""

    name: str
    shape: tuple[int, int, int]
    batch: int
    guided: bool
    kind: str = "noise"  # ddpm with clipping; "no noise": ddim; "statistics": dynamic threshold and guidance rescale

    def __str__(self) -> str:
        guided = ", guided" if self.guided else ""
        return f"{self.name} batch {self.batch}{guided}{'' if self.kind == 'noise' else ', ' + self.kind}"

    @property
    def lanes(self) -> int:
        """Rows of the network's batch."""
        return self.batch * (2 if self.guided else 1)

    def bytes(self) -> int:
        """The fewest a step can move."""
        c, h, w = self.shape
        statistics = 4 * self.batch + 2 * self.lanes if self.kind == "statistics" else 0
        return c * h * w * (8 * self.batch + 4 * self.lanes + statistics)


SHAPES = {
    "CIFAR 3x32x32": (3, 32, 32),
    "SD 1.5 latent 4x64x64": (4, 64, 64),
    "SDXL latent 4x128x128": (4, 128, 128),
    "pixels 3x256x256": (3, 256, 256),
}
TINY = {"tiny 3x4x5": (3, 4, 5)}


def cases(dry_run: bool) -> list[Case]:
    """The plain ones, one that no cache holds, then the kinds of plan."""
    shapes, batches = (TINY, (1, 2)) if dry_run else (SHAPES, (1, 2, 8))
    found = [
        Case(name, shape, b, guided) for name, shape in shapes.items() for b in batches for guided in (True, False)
    ]
    if not dry_run:
        found += [Case("pixels 3x256x256", (3, 256, 256), 64, guided) for guided in (True, False)]
    return found + [
        Case(name, shape, 2, True, kind) for name, shape in shapes.items() for kind in ("no noise", "statistics")
    ]


def importance(case: Case) -> tuple[bool, bool, int]:
    """The order in which the baselines are compiled: every shape once before any batch or kind."""
    return case.kind != "noise", not case.guided, case.batch


def plan_of(case: Case, steps: int) -> Plan:
    """A plan whose rows need what the case's kind says."""
    schedule = schedules.scaled_linear()
    clip = Clip(3.0, 0.9) if case.kind == "statistics" else Clip(1.0)
    plan = make_plan("ddim" if case.kind == "no noise" else "ddpm", schedule, steps, clip=clip)
    phi = 0.7 if case.kind == "statistics" else 0.0
    return plan.with_guidance(5.0, rescale=phi) if case.guided else plan


def step_of(ops: ModuleType) -> Step:
    """One step by the ops of `fewstep_kernels`, or by the twins of `fewstep_kernels.reference`."""

    def step(b: StaticBuffers, m: Tensor) -> None:
        ops.begin_step(b.table, b.index, b.row, b.step, b.t, b.cond_lane, b.uncond_lane)
        if b.statistics is not None:
            ops.step_statistics(b.statistics, b.x, m, b.row, b.cond_lane, b.uncond_lane)
        ops.denoise_step(b.operands(m))

    return step


@dataclass(frozen=True)
class Work:
    """A case's tensors: one start for all contenders."""

    case: Case
    plan: Plan
    x: Tensor  # [B, C, H, W] float32
    m: Tensor  # [R, C, H, W] bfloat16, channels last
    buffers: StaticBuffers

    @classmethod
    def of(cls, case: Case, steps: int, device: torch.device) -> "Work":
        """Random tensors and filled buffers."""
        generator = torch.Generator(device).manual_seed(0)
        plan = plan_of(case, steps)
        x = torch.randn(case.batch, *case.shape, device=device, generator=generator)
        m = torch.randn(case.lanes, *case.shape, device=device, generator=generator).to(torch.bfloat16)
        m = m.contiguous(memory_format=torch.channels_last)
        return cls(case, plan, x, m, _filled(case, plan, x, torch.bfloat16))

    def reset(self) -> None:
        """Back to the start: every slot at row 0."""
        self.buffers.index.zero_()
        self.buffers.x.copy_(self.x)

    def stagger(self, buffers: StaticBuffers) -> None:
        """Every slot at a row of its own, and NaN wherever the step must write before anybody reads."""
        rows = torch.arange(self.case.batch, device=self.x.device) % max(len(self.plan) - 1, 1)
        buffers.index.copy_(rows)
        buffers.x.copy_(self.x)
        for tensor in (buffers.x_in, buffers.row, buffers.t, buffers.statistics):
            if tensor is not None:
                tensor.fill_(float("nan"))
        buffers.step.fill_(-1)

    def exact(self) -> StaticBuffers:
        """One staggered step by the twin in float64, on normals that are exact too."""
        buffers = _filled(self.case, self.plan, self.x.double(), torch.float64)
        self.stagger(buffers)
        buffers.noise = exact_normals(buffers.seed, buffers.index.clone(), self.case.shape)[None]
        step_of(reference)(buffers, self.m.double())
        return buffers


def _filled(case: Case, plan: Plan, x: Tensor, dtype: torch.dtype) -> StaticBuffers:
    signature = Signature(
        samples=case.batch,
        lanes=case.lanes,
        shape=case.shape,
        steps=len(plan),
        dtype=dtype,
        device=x.device,
        statistics=case.kind == "statistics",
    )
    buffers = StaticBuffers.allocate(signature)
    apart = case.batch if case.guided else 0
    samples = [Sample(plan, 7 + i, State(x[i], None, 0)) for i in range(case.batch)]
    buffers.fill([Place(sample, i, i, apart + i) for i, sample in enumerate(samples)])
    return buffers


def exact_normals(seed: Tensor, step: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """`reference.normal` of a row's noise with float64 after u and v, which are float32 by definition: [B, C, H, W]."""
    size = shape[0] * shape[1] * shape[2]
    blocks = torch.arange(-(-size // 4), device=seed.device).expand(len(seed), -1)
    here = step[:, None].expand_as(blocks)
    counter = torch.stack((blocks, here, torch.full_like(blocks, STREAM_STEP), torch.zeros_like(blocks)))
    words = philox4x32(counter, torch.stack((seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))[:, :, None])
    u = words[0::2].float().mul(2.0**-32).add(2.0**-33).double()
    v = ((words[1::2] ^ 0x80000000) - 0x80000000).float().mul(2.0**-32).double()
    radius, angle = (-2 * u.log()).sqrt(), 2 * torch.pi * v
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), 1).flatten(0, 1)  # [4, B, blocks]
    return pairs.movedim(0, -1).flatten(1)[:, :size].unflatten(1, shape)


def errors(found: StaticBuffers, exact: StaticBuffers) -> dict[str, float]:
    """Of everything a step writes: relative L2, and inf where an integer is wrong."""
    result = {name: relative_error(getattr(found, name), getattr(exact, name)) for name in ("x", "x_in", "row", "t")}
    if found.statistics is not None and exact.statistics is not None:
        result["statistics"] = relative_error(found.statistics, exact.statistics)
    for name in ("step", "index"):
        result[name] = 0.0 if torch.equal(getattr(found, name), getattr(exact, name)) else float("inf")
    return result


def parity(work: Work, step: Step, exact: StaticBuffers, allowed: dict[str, float]) -> tuple[bool, dict[str, float]]:
    """Whether one staggered step is as near to float64 as `allowed`, and how near it is."""
    work.stagger(work.buffers)
    step(work.buffers, work.m)
    found = errors(work.buffers, exact)
    return all(found[name] <= allowed[name] for name in found), found


def allowed_errors(work: Work, exact: StaticBuffers) -> tuple[dict[str, float], dict[str, float]]:
    """Twice the twin's own error in the same dtypes, plus one eps; and the twin's own."""
    _, own = parity(work, step_of(reference), exact, dict.fromkeys(("x", "x_in", "row", "t", "statistics"), 0.0))
    eps = {name: torch.finfo(torch.bfloat16 if name == "x_in" else torch.float32).eps for name in own}
    return {name: 2 * own[name] + eps[name] for name in own}, own


class Bench:
    """All cases on one device."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.dry_run, self.baseline_seconds = options.device, options.dry_run, options.baseline_seconds
        self.steps = 2 if options.dry_run else 16
        self.capturer = capturer_for(self.device)
        self.report = Report(options.out, describe(self.device) | {"steps": self.steps})
        self.bandwidth = copy_bandwidth(self.device, self.dry_run).median
        self.cache = int(str(self.report.about.get("l2_bytes", 0)))
        self.report.about["copy_bytes_per_second"] = self.bandwidth
        self.refused: set[tuple[str, str]] = set()  # a contender in a mode that raised once

    def run(self) -> int:
        """The fused kernels and the twin in every case; then, where a capture may fail, graphs of the baselines."""
        in_place = put_kernels_in_place(self.device.type)
        self.report.about["ops"] = in_place.origin
        if in_place.origin["denoise_step"] == "twin":
            self.report.not_run.append("there is no fused denoise_step on this device: nothing to compare")
            return self.report.finish() or NOT_RUN
        if self.dry_run:
            print("DRY RUN: the kernels are interpreted, so these times say nothing")
        print(f"copy {self.bandwidth / 1e9:.0f} GB/s; times of one step in us, median [10th to 90th percentile]")
        every = cases(self.dry_run)
        for case in every:
            self.contender(case, OURS, step_of(fewstep_kernels), ("eager", "graph"))
            self.contender(case, TWIN, step_of(reference), ("eager",))
        until = time.perf_counter() + self.baseline_seconds
        for case in every[:1] if self.dry_run else sorted(every, key=importance):
            if time.perf_counter() > until:
                self.row(case, COMPILED, "eager", {"status": "not run: no time left to compile it"})
                continue
            torch._dynamo.reset()
            compiled = torch.compile(step_of(reference), fullgraph=True, dynamic=False)
            self.contender(case, COMPILED, compiled, ("eager", "graph"))
        for case in every:
            self.contender(case, TWIN, step_of(reference), ("graph",))
        return self.report.finish()

    def contender(self, case: Case, name: str, step: Step, modes: Sequence[str]) -> None:
        """Check a contender in a case, then time it. A baseline that cannot be run is a row that says why."""
        if not (modes := [mode for mode in modes if (name, mode) not in self.refused]):
            return
        work = Work.of(case, self.steps, self.device)
        mode = modes[0]
        try:
            exact = work.exact()
            allowed, own = allowed_errors(work, exact)
            holds, found = parity(work, step, exact, allowed)
            shown = {"error": found["x"], "twin_error": own["x"]}
            shown |= {"input_error": found["x_in"], "twin_input_error": own["x_in"]}
            if not self.report.check(f"{case}, {name}: off by {found}, allowed {allowed}", holds):
                self.row(case, name, mode, {"status": "wrong", **shown})
                return
            for mode in modes:
                self.measure(case, name, step, mode, work, shown)
        except Exception as error:
            if name == OURS:
                raise
            reason = (str(error).strip().splitlines() or [""])[0][:150]
            self.refused.add((name, mode))
            self.row(case, name, mode, {"status": f"not run, here and from here on: {type(error).__name__}: {reason}"})
        self.report.save()

    def measure(self, case: Case, name: str, step: Step, mode: str, work: Work, shown: dict[str, float]) -> None:
        """Time all steps of a plan, eager or as one graph, which must first equal the eager run bit by bit."""

        def run() -> None:
            for _ in range(self.steps):
                step(work.buffers, work.m)

        if mode == "eager":
            self.time(case, name, mode, run, work, shown)
            return
        work.reset()
        run()
        wanted = [work.buffers.x.clone(), work.buffers.x_in.clone()]
        graph: Graph = self.capturer.capture(run)
        work.reset()
        graph.replay()
        same = all(torch.equal(a, b) for a, b in zip(wanted, (work.buffers.x, work.buffers.x_in), strict=True))
        if self.report.check(f"{case}, {name}: the graph differs from the eager run", same):
            self.time(case, name, mode, graph.replay, work, shown)
        graph.release()

    def time(
        self, case: Case, name: str, mode: str, run: Callable[[], None], work: Work, shown: dict[str, float]
    ) -> None:
        """One row."""
        found = timed(run, self.device, before=work.reset, seconds=0.1, quick=self.dry_run)
        times = {key: value / self.steps if key.startswith("us") else value for key, value in found.us().items()}
        rate = case.bytes() * self.steps / found.median
        self.row(
            case,
            name,
            mode,
            {"status": "measured", **times, "GB/s": rate / 1e9, "share_of_copy": rate / self.bandwidth, **shown},
        )

    def row(self, case: Case, name: str, mode: str, values: dict[str, Any]) -> None:
        """Add it and print it."""
        about = {"case": case.name, "batch": case.batch, "guided": case.guided, "kind": case.kind}
        cached = case.bytes() < self.cache
        self.report.rows.append(
            about | {"contender": name, "mode": mode, "bytes": case.bytes(), "cached": cached} | values
        )
        text = values["status"]
        if text == "measured":
            text = f"{values['us']:9.2f} [{values['us_p10']:.2f} to {values['us_p90']:.2f}]  {values['GB/s']:7.1f} GB/s"
            text += f"  {values['share_of_copy']:6.1%} of copy{' (cached)' if cached else ''}"
        print(f"{case!s:<52}{name:<14}{mode:<6}{text}", flush=True)


def main() -> int:
    """All of it."""
    return Bench(script_options(__doc__.splitlines()[0], baseline_seconds=BASELINE_SECONDS)).run()


if __name__ == "__main__":
    sys.exit(main())

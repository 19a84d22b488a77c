"""compute-sanitizer on every kernel, on ragged shapes: memcheck, racecheck, synccheck; on attention initcheck as well.

    python benchmarks/sanitizer.py --out build/sanitizer   on an NVIDIA GPU; --seconds 500 gives it all it may need,
                                                           --attention or --ops runs these alone
    python benchmarks/sanitizer.py --dry-run               on a CPU: the same kernels interpreted, without the tool

Where the tool is missing or the machine refuses it, nothing was run, which is never a pass. Before it is believed it
must find a write out of bounds that is planted for it. initcheck looks at attention alone, whose process runs no kernel
but its own.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from attention_contenders import own_refusal
from exercise_attention import DONE
from measure import NOT_RUN, ROOT, Report, describe, put_kernels_in_place, script_options, synchronize
from op_steps import Kind, filled, of_ops

import fewstep_kernels
from fewstep_kernels import STEP_OPS

TOOLS = ("memcheck", "racecheck", "synccheck")
SECONDS = 80.0  # for all of them together
ALONE_SECONDS = 30.0  # for an exercise without a tool
MAX_AT_ONCE = 4
FOUND = 86  # the exit code asked of the tool where it finds something
REFUSED = re.compile(
    r"Device not supported|Failed to initialize|not supported on this|Unable to (?:start|attach|find).*"
)
# memcheck and synccheck count errors, racecheck hazards
SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard")

CLEAN, ERRORS, NOTHING = "clean", "errors", "not run"


class Exercise(NamedTuple):
    """Kernels that one process runs, and the tools that look at it."""

    command: tuple[str, ...]
    tools: tuple[str, ...]


EXERCISES = {
    "attention": Exercise((str(ROOT / "benchmarks/exercise_attention.py"),), (*TOOLS, "initcheck")),
    "ops": Exercise((__file__, "--exercise"), TOOLS),
}


def exercise(device: torch.device) -> None:
    """Run every op that has a kernel, once or twice, on sizes that fill no block."""
    shape = (3, 5, 7) if device.type == "cpu" else (3, 63, 21)
    x = torch.randn(3, *shape, device=device)
    for sampler, statistics in (("ddpm", False), ("ddim", False), ("ddpm", True)):
        for guided in (True, False):
            kind = Kind(sampler, guided, statistics)
            buffers = filled(kind, x, torch.bfloat16)
            m = torch.randn(6 if guided else 3, *shape, device=device).to(torch.bfloat16)
            of_ops(STEP_OPS, kind)(buffers, m.contiguous(memory_format=torch.channels_last))
    z = fewstep_kernels.normal(buffers.seed, buffers.step, 1, list(shape))
    scale = torch.rand(3, device=device)
    fewstep_kernels.add_noise(x, scale, scale, z)
    fewstep_kernels.cfg_combine(x, z, scale, scale)
    fewstep_kernels.posterior_update(x, z, x, buffers.row, z, x)
    size = (6, 5) if device.type == "cpu" else (65, 63)
    for layout in (torch.contiguous_format, torch.channels_last):
        h = torch.randn(2, 12, *size, device=device).contiguous(memory_format=layout)
        weight, per_sample = torch.randn(12, device=device), torch.randn(2, 12, device=device)
        fewstep_kernels.group_norm_silu(h, weight, weight, 4, 1e-5, scale=per_sample, shift=per_sample)
        fewstep_kernels.bias_residual(h, weight, h)
    rows = torch.randn(len(h), 77, 12, device=device)
    fewstep_kernels.layer_norm(rows, weight, weight, 1e-5)
    fewstep_kernels.add_layer_norm(rows, rows, weight, weight, 1e-5)
    fewstep_kernels.geglu(rows)
    fewstep_kernels.timestep_embedding(rows[0, :, 0], 12, cos_first=True, freq_shift=0.0)
    synchronize(device)
    print(DONE, flush=True)


@triton.jit
def _out_of_bounds_kernel(ptr, offset):
    tl.store(ptr + offset + tl.arange(0, 128), 1.0)


def plant(device: torch.device) -> None:
    """Write far behind the end of a tensor: what the tool must find."""
    _out_of_bounds_kernel[(1,)](torch.zeros(128, device=device), 2**24)
    synchronize(device)


def verdict(output: str, code: int | None) -> tuple[str, str]:
    """What a run of the tool says: clean, errors, or that it did not run; and the line that says so."""
    if code is None:
        return NOTHING, "it did not end in time"
    if refused := REFUSED.search(output):
        return NOTHING, refused[0]
    counts = [int(first or second) for first, second in SUMMARY.findall(output)]
    if not counts:
        return NOTHING, f"no summary, exit code {code}"
    if any(counts) or code:
        return ERRORS, f"{sum(counts)} found, exit code {code}"
    return (CLEAN, "0 found") if DONE in output else (NOTHING, "the kernels did not run to their end")


def tool_path() -> str | None:
    """compute-sanitizer, on the PATH or where CUDA puts it."""
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    return shutil.which("compute-sanitizer") or shutil.which(str(home / "bin/compute-sanitizer"))


def run(command: Sequence[str], seconds: float) -> tuple[str, int | None]:
    """What a command prints, and its exit code; None past the time given.

    Without the caching allocator every tensor ends where its memory does.
    """
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    limit = max(seconds, 1.0)
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run(command, env=environment, text=True, errors="replace", timeout=limit, **both)
    except subprocess.TimeoutExpired:
        return "", None
    return done.stdout, done.returncode


def under(tool: str, path: str, what: Sequence[str], seconds: float) -> tuple[str, str]:
    """The verdict of one tool on a command of Python's."""
    options = ["--tool", tool, "--error-exitcode", str(FOUND), "--print-limit", "20"]
    output, code = run([path, *options, sys.executable, *what], seconds)
    print(f"{tool} on {' '.join(what)}:\n{output[-6000:]}", flush=True)
    return verdict(output, code)


def runnable(report: Report, names: Sequence[str], device: torch.device, end: float) -> list[str]:
    """The exercises that end well without a tool: what they compile is found in the cache by those that follow."""
    found = []
    for name in names:
        exercise = EXERCISES[name]
        why_not = own_refusal(device) if name == "attention" else None
        if why_not is not None:
            report.not_run.append(f"{name}: {why_not}")
            continue
        output, code = run([sys.executable, *exercise.command], min(ALONE_SECONDS, end - time.monotonic()))
        print(output[-6000:])
        if report.check(f"{name}: the kernels run without the tool", code == 0 and DONE in output):
            found.append(name)
    return found


def judge(report: Report, path: str, names: Sequence[str], end: float) -> None:
    """Every tool of every exercise, some at once: each spends most of its time on a start of its own."""

    def one(run_of: tuple[str, str]) -> tuple[str, str]:
        name, tool = run_of
        return under(tool, path, EXERCISES[name].command, end - time.monotonic())

    runs = [(name, tool) for name in names for tool in EXERCISES[name].tools]
    with ThreadPoolExecutor(max(1, min(MAX_AT_ONCE, (os.cpu_count() or 1) // 2))) as pool:
        for (name, tool), (found, why) in zip(runs, pool.map(one, runs), strict=True):
            report.rows.append({"kernels": name, "tool": tool, "verdict": found, "why": why})
            if found == NOTHING:
                report.not_run.append(f"{tool} on {name}: {why}")
            else:
                report.check(f"{tool} on {name}: {why}", found == CLEAN)
            report.save()


def main(argv: Sequence[str]) -> int:
    """Every tool on everything."""
    if argv[:1] in (["--exercise"], ["--plant"]):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        put_kernels_in_place(device.type)
        (exercise if argv[0] == "--exercise" else plant)(device)
        return 0
    flags = {name: f"{name} alone" for name in EXERCISES}
    options: argparse.Namespace = script_options(__doc__.splitlines()[0], argv, flags, seconds=SECONDS)
    asked = [name for name in EXERCISES if getattr(options, name)]
    report = Report(options.out, describe(options.device))
    end = time.monotonic() + options.seconds
    names = runnable(report, asked or list(EXERCISES), options.device, end)
    if options.dry_run:
        return report.finish()
    path = tool_path()
    if path is None:
        report.not_run.append("compute-sanitizer is not on this machine")
    elif (planted := under("memcheck", path, (__file__, "--plant"), end - time.monotonic()))[0] != ERRORS:
        report.not_run.append(f"a planted write out of bounds is not reported: {planted[1]}")
    else:
        judge(report, path, names, end)
    return report.finish() or (NOT_RUN if report.not_run else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

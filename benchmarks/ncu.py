"""Nsight Compute on three kernels: where their time goes, where the tool is installed and the machine allows it.

    python benchmarks/ncu.py --out build/ncu   on an NVIDIA GPU
    python benchmarks/ncu.py --dry-run         on a CPU: what it would look at, run once without the tool

Rows are the tool's own: kernel, section, metric, unit, value. It replays a kernel some times over and fixes the clocks
meanwhile, so its durations are no benchmark.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from attention_cases import CASES, TINY
from attention_contenders import own, own_refusal
from measure import NOT_RUN, Report, describe, put_kernels_in_place, script_options, synchronize

import fewstep_kernels

SECONDS = 75.0  # for all of them together
SECTIONS = ("SpeedOfLight", "LaunchStats", "Occupancy", "MemoryWorkloadAnalysis", "WarpStateStats")
REFUSED = re.compile(r"ERR_NVGPUCTRPERM.*|not supported|Failed to (?:profile|prepare|initialize).*|No supported GPU.*")
WARM_UP = 1  # launches of each kernel before the one that is looked at
DONE = "the kernels have run"


class Subject(NamedTuple):
    """What a process runs, the kernel that the tool waits for, and how many launches of it make one call."""

    run: Callable[[torch.device], object]
    kernel: str
    launches: int = 1


def attention(name: str) -> Callable[[torch.device], object]:
    """A case of attention.py by the hand-written kernel of the device."""

    def run(device: torch.device) -> object:
        case = next(each for each in CASES if each.name == name) if device.type == "cuda" else TINY[0]
        attend = own(device)
        if attend is None:
            raise RuntimeError(own_refusal(device))
        return attend(*case.tensors(device))

    return run


def norm(device: torch.device) -> object:
    """GroupNorm + SiLU of the largest map of Stable Diffusion."""
    put_kernels_in_place(device.type)
    size = (2, 320, 64, 64) if device.type == "cuda" else (1, 64, 4, 4)
    x = torch.randn(size, device=device).to(memory_format=torch.channels_last)
    weight = torch.ones(size[1], device=device)
    return fewstep_kernels.group_norm_silu(x, weight, weight, 32, 1e-5)


SUBJECTS = {
    "attention d40": Subject(attention("SD 64x64 self"), "attention_fwd"),
    "attention d40, 77 keys": Subject(attention("SD 64x64 cross"), "attention_fwd"),
    "group_norm_silu": Subject(norm, "_moments_kernel|_normalise_kernel", launches=2),
}


def exercise(name: str) -> None:
    """Run a subject once for the tool to pass over, and once for it to look at."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    for _ in range(WARM_UP + 1):
        SUBJECTS[name].run(device)
    synchronize(device)
    print(DONE, flush=True)


def tool_path() -> str | None:
    """ncu, on the PATH or where CUDA puts it."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("ncu") or shutil.which(f"{home}/bin/ncu")


def command(path: str, name: str) -> list[str]:
    """The tool around this file's exercise of a subject."""
    subject = SUBJECTS[name]
    sections = [part for section in SECTIONS for part in ("--section", section)]
    which = ["--kernel-name", f"regex:{subject.kernel}", "--launch-skip", str(WARM_UP * subject.launches)]
    count = ["--launch-count", str(subject.launches)]
    return [path, "--csv", "--page", "details", *sections, *which, *count, sys.executable, __file__, "--exercise", name]


def metrics(output: str) -> list[dict[str, str]]:
    """The rows of the tool's table, which begins after whatever else was printed."""
    lines = output.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    columns = {"kernel": "Kernel Name", "section": "Section Name", "metric": "Metric Name"}
    columns |= {"unit": "Metric Unit", "value": "Metric Value"}
    rows = csv.DictReader(line for line in lines[start:] if line.startswith('"'))
    return [{key: row.get(name) or "" for key, name in columns.items()} for row in rows if row.get("Metric Name")]


def refusal(output: str, code: int | None) -> str:
    """Why there is no table."""
    if code is None:
        return "it did not end in time"
    found = REFUSED.search(output)
    return found[0] if found else f"no table, exit code {code}"


def run(argv: Sequence[str], seconds: float) -> tuple[str, int | None]:
    """What a command prints, and its exit code; None past the time given."""
    both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run(argv, text=True, errors="replace", timeout=max(seconds, 1.0), **both)
    except subprocess.TimeoutExpired:
        return "", None
    return done.stdout, done.returncode


def look(report: Report, path: str | None, end: float) -> None:
    """Each subject in turn; the first refusal is enough."""
    for name in SUBJECTS:
        argv = [sys.executable, __file__, "--exercise", name] if path is None else command(path, name)
        output, code = run(argv, end - time.monotonic())
        found = metrics(output)
        print(f"{name}: {len(found)} metrics" if found else f"{name}:\n{output[-3000:]}", flush=True)
        if path is None:
            report.check(f"{name} runs without the tool", code == 0 and DONE in output)
        elif found and code == 0:
            report.check(f"{name}: {len(found)} metrics", True)
            report.rows += [{"subject": name} | row for row in found]
            for row in found:
                if row["section"].startswith("GPU Speed"):
                    print(f"  {row['kernel'][:40]:<42}{row['metric']:<32}{row['value']:>14} {row['unit']}")
        else:
            report.not_run.append(f"ncu on {name}: {refusal(output, code)}")
            if REFUSED.search(output):
                return
        report.save()


def main(argv: Sequence[str]) -> int:
    """All of them."""
    if argv[:1] == ["--exercise"]:
        exercise(argv[1])
        return 0
    options = script_options((__doc__ or "").splitlines()[0], argv, seconds=SECONDS)
    report = Report(options.out, describe(options.device))
    path = None if options.dry_run else tool_path()
    if options.dry_run or path is not None:
        look(report, path, time.monotonic() + options.seconds)
    else:
        report.not_run.append("ncu is not on this machine")
    return report.finish() or (NOT_RUN if report.not_run else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

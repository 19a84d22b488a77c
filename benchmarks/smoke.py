"""Every attention kernel and head dim: few keys, then more tiles than blocks, in the build whose waits have a limit.

    python benchmarks/smoke.py --out build/smoke   on an NVIDIA GPU, with the kit or nvcc
    python benchmarks/smoke.py --dry-run           on a CPU: the emulator

A wait that does not end prints the barrier and its parity, and traps. That, and any other end of a process, costs the
case that ran and no other: the rest goes on in a new process. Each result is judged as in the tests: at most twice as
far from float64 as torch's own.
"""

import math
import sys
from typing import Any, NamedTuple

import torch
from attention_cases import Case, exact
from attention_contenders import by_module, emulated
from isolated import child, run_isolated
from measure import Report, describe, relative_error, script_options
from prepared import HEAD_DIMS, module

from fewstep_kernels.attention import torch_attention

START_SECONDS, CASE_SECONDS = 40.0, 10.0
EMULATED_SECONDS = 90.0  # a case in the emulator
LENGTHS = {"few": (67, 77), "many": (201, 333)}  # queries and keys


class Smoke(NamedTuple):
    """A kernel, a head dim, and which lengths."""

    arch: int
    head_dim: int
    lengths: str

    @classmethod
    def named(cls, name: str) -> "Smoke":
        """The one of this name."""
        arch, head_dim, lengths = name.split()
        return cls(int(arch.removeprefix("sm_")), int(head_dim.removeprefix("d")), lengths)

    @property
    def name(self) -> str:
        """Such as sm_90 d40 few."""
        return f"sm_{self.arch} d{self.head_dim} {self.lengths}"

    def case(self, multiprocessors: int) -> Case:
        """Its tensors: of the many tiles, more than there are blocks."""
        queries, keys = LENGTHS[self.lengths]
        return Case(self.name, 1, 1 if self.lengths == "few" else 2 * multiprocessors + 1, queries, keys, self.head_dim)


def kernels(device: torch.device) -> list[int]:
    """The device's, then that of sm_80 where the device has a newer one."""
    if device.type != "cuda":
        return [90, 80]
    major, minor = torch.cuda.get_device_capability(device)
    return [10 * major + minor, *([80] if (major, minor) == (9, 0) else [])]


def cases(device: torch.device) -> list[Smoke]:
    """The smallest first, and every head dim once before any twice."""
    dims = module("smoke").head_dims() if device.type == "cuda" else HEAD_DIMS
    return [Smoke(arch, dim, lengths) for lengths in LENGTHS for arch in kernels(device) for dim in dims]


def run(name: str, device: torch.device) -> dict[str, Any]:
    """One case, and how far it is from float64."""
    smoke = Smoke.named(name)
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    q, k, v = smoke.case(multiprocessors).tensors(device)
    attend = by_module(module("smoke"), smoke.arch) if device.type == "cuda" else emulated(smoke.arch)
    wanted = exact(q, k, v)
    allowed = 2 * relative_error(torch_attention(q, k, v), wanted)
    torch.full_like(q, math.nan)  # the next tensor of this size is given its memory
    return {"error": relative_error(attend(q, k, v), wanted), "allowed": allowed}


def main() -> int:
    """All of them, each judged."""
    if sys.argv[1:2] == ["--cases"]:
        device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        child(sys.argv[2:], lambda name: run(name, device))
        return 0
    options = script_options((__doc__ or "").splitlines()[0])
    report = Report(options.out, describe(options.device))
    names = [smoke.name for smoke in cases(options.device)]
    seconds = EMULATED_SECONDS if options.dry_run else CASE_SECONDS
    for name, found, said in run_isolated([__file__, "--cases"], names, START_SECONDS, seconds):
        holds = found is not None and found["error"] <= found["allowed"]
        status = "right" if holds else "wrong" if found else f"ended its process: {said}"
        report.rows.append({"case": name, "status": status} | (found or {}))
        off = f"off by {found['error']:.1e}, allowed {found['allowed']:.1e}" if found else status
        print(f"{name:<18}{off}", flush=True)
        report.check(f"{name}: {off}", holds)
        report.save()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())

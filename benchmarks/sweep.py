"""Every design of the attention kernels beside the library's choice and torch's own, on the shapes that matter most.

    python benchmarks/sweep.py --out build/sweep   on an NVIDIA GPU, with the kit or nvcc
    python benchmarks/sweep.py --dry-run           on a CPU, tiny shapes, in the emulator

A design is timed only where it is at most twice as far from float64 as torch's own. Each is checked in a process that a
hang or a trap ends for that design alone; then those of a case that are right are captured in CUDA graphs and replayed
in turn, as attention.py does.
"""

import functools
import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from attention import CASE_SECONDS, ROUNDS, described, repeated
from attention_cases import CASES, TINY, Case, exact
from attention_contenders import TORCH, Attend, by_module, chosen_design, emulated, simulation
from isolated import child, run_isolated
from measure import Report, Spread, describe, in_turn, relative_error, script_options
from prepared import module
from torch import Tensor

from fewstep_kernels.attention import torch_attention
from fewstep_kernels.measured import EXACT_WIDTHS

PROMOTIONS = ("l2_none", "l2_256")  # what a miss brings to L2, beside the library's 128 bytes
PANEL = 64  # columns: a width that is a multiple has nothing to pad
START_SECONDS, CHECK_SECONDS, TIME_SECONDS = 40.0, 10.0, 20.0
EMULATED_SECONDS = 90.0  # a case in the emulator
NAMES = (
    "SD 64x64 self",
    "SD 64x64 cross",
    "SD 32x32 self",
    "SD 16x16 self",
    "SDXL 64x64 self",
    "SDXL 32x32 self",
)


def cases(device: torch.device) -> list[Case]:
    """What is swept."""
    return [case for case in CASES if case.name in NAMES] if device.type == "cuda" else list(TINY)


def arch_of(device: torch.device) -> int:
    """As 90; on a CPU that is what is emulated."""
    major, minor = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
    return 10 * major + minor


def designs(device: torch.device, D: int) -> list[str]:
    """The library's choice, its other promotions, and all the other designs of this device's kernel."""
    own = chosen_design()
    if arch_of(device) != 90:
        return [own]
    built = module("sweep") if device.type == "cuda" else simulation().emulator()
    return [own, *(f"{own}+{each}" for each in PROMOTIONS), *(each for each in built.designs(D) if each != own)]


def must_be_right(design: str, D: int) -> bool:
    """A design whose products have a width that this GPU does not take may be wrong: the library does not choose it."""
    return EXACT_WIDTHS or D % PANEL == 0 or design.startswith("padded")


def attention_by(device: torch.device, design: str) -> Attend:
    """The kernel of the device in a design."""
    arch = arch_of(device)
    return by_module(module("sweep"), arch, design) if device.type == "cuda" else emulated(arch, design)


@functools.lru_cache(maxsize=1)
def judged(case: Case, device: torch.device) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, float]:
    """A case's tensors, the exact result, and how far from it a design may be."""
    given = case.tensors(device)
    wanted = exact(*given)
    return given, wanted, 2 * relative_error(torch_attention(*given), wanted)


def check(case: Case, design: str, device: torch.device) -> dict[str, float]:
    """How far a design is from float64."""
    given, wanted, allowed = judged(case, device)
    torch.full_like(given[0], math.nan)  # the next tensor of this size is given its memory
    return {"error": relative_error(attention_by(device, design)(*given), wanted), "allowed": allowed}


def times(case: Case, right: Sequence[str], device: torch.device) -> dict[str, dict[str, float]]:
    """Of one call of torch's own and of each of these designs."""
    given = case.tensors(device)
    attends: dict[str, Attend] = {TORCH: torch_attention} | {name: attention_by(device, name) for name in right}
    works: dict[str, Callable[[], object]] = {}
    calls: dict[str, int] = {}
    for name, attend in attends.items():
        works[name], calls[name] = repeated(functools.partial(attend, *given), device)
    rounds = ROUNDS if device.type == "cuda" else 2
    turns = in_turn(works, device, rounds, CASE_SECONDS)
    return {name: Spread.of([each / calls[name] for each in found]).us() for name, found in turns.items()}


def run(item: str, device: torch.device) -> Any:
    """What the child does: a check of one design, or the times of those of a case that are right."""
    asked = json.loads(item)
    case = next(each for each in cases(device) if each.name == asked["case"])
    with torch.no_grad():
        if "design" in asked:
            return check(case, asked["design"], device)
        return times(case, asked["designs"], device)


class Sweep:
    """All designs of all cases on one device."""

    def __init__(self, report: Report, device: torch.device) -> None:
        self.report, self.device = report, device
        emulated_too = device.type != "cuda"
        self.limits = [EMULATED_SECONDS] * 2 if emulated_too else [CHECK_SECONDS, TIME_SECONDS]
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}

    def run(self) -> int:
        """Check, then time."""
        found = cases(self.device)
        asked = []
        for case in found:
            self.row(case, TORCH)
            for design in designs(self.device, case.D):
                self.row(case, design)
                asked.append(json.dumps({"case": case.name, "design": design}))
        for item, answer, said in self.isolated(asked, self.limits[0]):
            self.judge(json.loads(item), answer, said)
        asked = [json.dumps({"case": case.name, "designs": self.right(case.name)}) for case in found]
        for item, answer, said in self.isolated(asked, self.limits[1]):
            self.time(json.loads(item)["case"], answer, said)
        return self.report.finish()

    def right(self, name: str) -> list[str]:
        """The designs of a case that may be timed."""
        rows = {design: row for (case, design), row in self.rows.items() if case == name}
        return [design for design, row in rows.items() if "error" in row and "status" not in row]

    def isolated(self, items: Sequence[str], seconds: float) -> Any:
        """Each by the child."""
        return run_isolated([__file__, "--items"], items, START_SECONDS, seconds)

    def row(self, case: Case, design: str) -> None:
        """A row of the report, which says that it was not run until it was."""
        row = described(case) | {"design": design, "chosen": design == chosen_design()}
        self.rows[case.name, design] = row
        self.report.rows.append(row)

    def judge(self, asked: dict[str, str], answer: dict[str, float] | None, said: str) -> None:
        """Note whether a design is right."""
        row = self.rows[asked["case"], asked["design"]]
        row |= answer or {}
        holds = answer is not None and answer["error"] <= answer["allowed"]
        if not holds:
            row["status"] = f"wrong: off by {answer['error']:.1e}" if answer else f"ended its process: {said}"
        if must_be_right(row["design"], row["head_dim"]):
            self.report.check(f"{asked['case']}, {row['design']}: {row.get('status', 'right')}", holds)
        self.report.save()

    def time(self, name: str, answer: dict[str, dict[str, float]] | None, said: str) -> None:
        """Note and print the times of a case."""
        print(name)
        rows = {design: row for (case, design), row in self.rows.items() if case == name}
        for design, row in rows.items():
            if answer is None or design not in answer:
                row.setdefault("status", f"not timed: {said}")
            else:
                row |= {"status": "measured", **answer[design]}
                row["of_torch"] = answer[TORCH]["us"] / row["us"]
                if chosen_design() in answer:
                    row["of_chosen"] = answer[chosen_design()]["us"] / row["us"]
            print(f"  {row['design']:<24}{line(row)}", flush=True)
        self.report.save()


def line(row: dict[str, Any]) -> str:
    """A row for the eye."""
    if row["status"] != "measured":
        return str(row["status"])
    lead = f"  {row['of_chosen']:5.2f} x the library's choice" if "of_chosen" in row else ""
    return f"{row['us']:9.2f} us [{row['us_p10']:.2f} to {row['us_p90']:.2f}]  {row['of_torch']:5.2f} x torch{lead}"


def main() -> int:
    """All of it."""
    if sys.argv[1:2] == ["--items"]:
        device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        child(sys.argv[2:], lambda item: run(item, device))
        return 0
    options = script_options((__doc__ or "").splitlines()[0])
    report = Report(options.out, describe(options.device))
    return Sweep(report, options.device).run()


if __name__ == "__main__":
    sys.exit(main())

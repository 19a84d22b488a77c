"""What sm_90's instructions do to bytes: each probe of tests/csrc/sm90_probes.cpp on the GPU, beside the emulator.

    python benchmarks/golden.py --out build/golden   on a GPU of sm_90, with the kit, or with nvcc and g++
    python benchmarks/golden.py --dry-run            on a CPU: the emulator in both places

It also writes STEM.npz, the answers by name. Copied to tests/data/sm90_golden.npz, they are what the tests hold the
emulator to on every machine. Everything is written anew after each probe, so one that hangs loses no other's answer.

"exact_widths" in the report is what they say of P V, whose columns lie along the rows of its operand: true where every
probe agrees, false where those of a width that is no multiple of 64 differ and all others agree, else null. From it
adopt.py writes EXACT_WIDTHS.
"""

import importlib
import io
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from measure import NOT_RUN, TESTS, Report, describe, script_options
from numpy.typing import NDArray
from prepared import emulator_answers, module

from fewstep.files import AtomicFiles

PANEL = 64  # columns of a row of 128 bytes
HOPPER = (9, 0)

sys.path.append(str(TESTS))
cases: Any = importlib.import_module("support.sm90_cases")


def emulated() -> Iterator[tuple[str, NDArray[Any]]]:
    """The emulator's answers: from the kit, else asked here."""
    if (path := emulator_answers()) is not None:
        with np.load(path) as found:
            yield from found.items()
        return
    for name, ask in cases.answers(cases.probes(1)):
        yield name, ask().numpy()


def odd_widths() -> set[str]:
    """The probes of products that no library is known to make: columns along the rows, a width that fills no panel."""
    odd = [product.name for product in cases.PRODUCTS if product.registers and product.columns % PANEL]
    return {f"wgmma {kind}: {name}" for name in odd for kind in cases.KINDS}


def exact_widths(same: Mapping[str, bool], asked: int) -> bool | None:
    """What the answers say of such products; None where they do not all say it."""
    if len(same) < asked:
        return None
    differ = {name for name, each in same.items() if not each}
    return True if not differ else False if differ <= odd_widths() else None


def keep(report: Report, answers: Mapping[str, NDArray[Any]]) -> None:
    """The report and the answers so far."""
    report.save()
    if report.stem is None:
        return
    data = io.BytesIO()
    np.savez_compressed(data, **answers)
    with AtomicFiles() as files:
        files.open(f"{report.stem}.npz").write(data.getvalue())


def main() -> int:
    """Ask both, compare, and keep what the device said."""
    options = script_options((__doc__ or "").splitlines()[0])
    device: torch.device = options.device
    report = Report(options.out, describe(device))
    report.about["exact_widths"] = None
    if device.type == "cuda" and torch.cuda.get_device_capability(device) != HOPPER:
        report.not_run.append("this GPU is not of sm_90")
        report.save()
        return NOT_RUN
    expected = dict(emulated())
    probes = cases.probes() if device.type == "cpu" else cases.Probes(module("probes"), device.type)
    answers: dict[str, NDArray[Any]] = {}
    asked = dict(cases.answers(probes))
    same: dict[str, bool] = {}
    for name, ask in asked.items():
        print(name, flush=True)  # before it: the last line names the one that hangs
        answers[name] = ask().numpy()
        wanted = expected.get(name)
        same[name] = wanted is not None and answers[name].tobytes() == wanted.tobytes()
        report.check(name, same[name])
        different = None if wanted is None else int((answers[name] != wanted).sum())
        row = {"probe": name, "elements": answers[name].size, "different": different, "same": same[name]}
        report.rows.append(row)
        report.about["exact_widths"] = exact_widths(same, len(asked))
        keep(report, answers)
    print(f"{report.passed} of {len(asked)} probes give what the emulator gives")
    print(f"exact widths: {report.about['exact_widths']}")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())

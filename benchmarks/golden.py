"""What sm_90's instructions do to bytes: each probe of tests/sm90_probes.cpp on the GPU, beside the emulator's answer.

    python benchmarks/golden.py --out build/golden   on a GPU of sm_90, with nvcc and g++
    python benchmarks/golden.py --dry-run            on a CPU: the emulator in both places

It also writes STEM.npz, the answers by name. Copied to tests/data/sm90_golden.npz, they are what the tests hold the
emulator to on every machine.
"""

import importlib
import io
import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch
from measure import NOT_RUN, TESTS, Report, describe, script_options

from fewstep.files import AtomicFiles

ROOT = TESTS.parent
SOURCE = TESTS / "sm90_probes.cpp"
HOPPER = (9, 0)

sys.path.append(str(TESTS))
cases: Any = importlib.import_module("sm90_cases")
simulation: Any = importlib.import_module("simulation")


def built(device: torch.device) -> ModuleType:
    """The probes for this device."""
    builder, load = simulation.builder(), simulation.load
    if device.type == "cpu":
        return load(SOURCE.stem, builder.build_kernels(ROOT / "build" / "sim", SOURCE))
    return load(SOURCE.stem, builder.build_probes(ROOT / "build" / "probes", SOURCE))


def main() -> int:
    """Ask both, compare, and keep what the device said."""
    options = script_options((__doc__ or "").splitlines()[0])
    device: torch.device = options.device
    report = Report(options.out, describe(device))
    if device.type == "cuda" and torch.cuda.get_device_capability(device) != HOPPER:
        report.not_run.append("this GPU is not of sm_90")
        report.save()
        return NOT_RUN
    emulator = dict(cases.answers(cases.Probes(built(torch.device("cpu")), seed=1)))
    answers = {}
    for name, ask in cases.answers(cases.Probes(built(device), device.type)):
        answers[name] = ask().numpy()
        expected = emulator[name]().numpy()
        same = answers[name].tobytes() == expected.tobytes()
        report.check(name, same)
        different = int((answers[name] != expected).sum())
        report.rows.append({"probe": name, "elements": expected.size, "different": different, "same": same})
    print(f"{report.passed} of {len(answers)} probes give what the emulator gives")
    if options.out is not None:
        data = io.BytesIO()
        np.savez_compressed(data, **answers)
        with AtomicFiles() as files:
            files.open(f"{options.out}.npz").write(data.getvalue())
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())

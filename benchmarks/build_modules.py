"""The CUDA modules in their places: taken from the kit, linked, or built, each whatever becomes of the others.

    python benchmarks/build_modules.py --out build/modules   on an NVIDIA GPU, for that GPU
    python benchmarks/build_modules.py --dry-run             on a CPU: the emulator, and what a kit has for this Python

fewstep_kernels._C goes beside the Python files that load it. Each module is imported once.
"""

import importlib
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import ROOT, TESTS, Report, describe, script_options
from prepared import HOPPER, NAMES, BuildError, emulator_answers, is_for, loaded, path_of

PLACE = ROOT / "kernels/fewstep_kernels" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
sys.path.append(str(TESTS))


def put(module: Path, place: Path) -> None:
    """Copy a module to where it is imported from, whole or not at all."""
    temporary = place.with_name(f".{place.name}")
    shutil.copyfile(module, temporary)
    temporary.replace(place)


def ready(name: str, capability: tuple[int, int], place: Path | None) -> Path:
    """A module that loads; the library's, put in its place."""
    path = path_of(name, capability)
    loaded(name, path)
    if name == "library" and place is not None:
        put(path, place)
    return path


def emulator() -> Path:
    """The emulator and its probes."""
    simulation: Any = importlib.import_module("support.simulation")
    importlib.import_module("support.sm90_cases").probes()
    return Path(simulation.emulator().__file__)


def build(report: Report, name: str, make: Callable[[], Path]) -> None:
    """One row and one check."""
    started = time.perf_counter()
    try:
        path = make()
    except (BuildError, ImportError, OSError) as error:
        print(f"{name}: {error}", flush=True)
        report.check(f"{name} is there and loads", False)
        report.rows.append({"module": name, "status": str(error).strip().splitlines()[0][:200]})
        return
    seconds = round(time.perf_counter() - started, 1)
    report.check(name, True)
    where = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    report.rows.append({"module": name, "status": "loads", "from": where, "seconds": seconds})
    print(f"{name}: {where}, {path.stat().st_size / 2**20:.1f} MiB, {seconds} s", flush=True)
    report.save()


def main() -> int:
    """All of them."""
    options = script_options((__doc__ or "").splitlines()[0])
    report = Report(options.out, describe(options.device))
    if options.dry_run:
        build(report, "emulator", emulator)
        has_kit = emulator_answers() is not None
        print("the kit's modules, which need no GPU to load" if has_kit else "there is no kit", flush=True)
        capability, place, names = HOPPER, None, NAMES if has_kit else ()
    else:
        capability, place = torch.cuda.get_device_capability(options.device), PLACE
        names = tuple(name for name in NAMES if is_for(name, capability))
    for name in names:
        build(report, name, lambda name=name: ready(name, capability, place))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())

"""`make gpu`: what only an NVIDIA GPU can show, in parts, each bounded in time. docs/gpu.md tells how to read it.

A part is a list of commands, each in a process of its own that is stopped at its time limit. After every part its
results are written, copied into benchmarks/results/<gpu>/ and put into one tar, so that whatever stops the run leaves
what was done. Standard library only: it must work where nothing is installed but torch and what the parts need.

A command is a pytest run, counted from its report, or a script of this folder, called with `--out STEM` and, in a dry
run, `--dry-run`. A script writes STEM.json with {"checks": {"passed": n, "failed": n}, "not_run": [reasons]} and exits
with 0, with 1 where a check failed, or with 77 where it could not run.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from partwise import Command, Part, Run, exit_code

ROOT = Path(__file__).resolve().parent.parent


def script(name: str, seconds: float, *arguments: str) -> Command:
    """A script of this folder."""
    return Command(name, seconds, (f"benchmarks/{name}.py", *arguments))


def gpu_tests(name: str, seconds: float, *patterns: str, workers: int = 1, dry: tuple[str, ...] = ()) -> Command:
    """The gpu-marked tests of some files; in a dry run, what those tests are on a CPU."""
    return Command(name, seconds, patterns, pytest=True, workers=workers, dry=dry)


KERNEL_TESTS = ("tests/test_fused_*.py", "tests/test_kernel_*.py")
GRAPH_TESTS = ("tests/test_graphs*.py", "tests/test_manifest.py")
ATTENTION_TESTS = ("tests/test_attention_*.py",)
WORKERS = 8  # kernels are compiled before they run, one after another in each process
SMALL = ("-k", "not tile and not 63x21")  # `make test` interprets the others too


def other_gpu_tests(root: Path = ROOT) -> tuple[str, ...]:
    """Files with gpu-marked tests that no part below names: so that no such test is left out."""
    taken = {path for pattern in KERNEL_TESTS + GRAPH_TESTS + ATTENTION_TESTS for path in root.glob(pattern)}
    marked = (path for path in sorted(root.glob("tests/test_*.py")) if "mark.gpu" in path.read_text())
    here = root / "tests/test_gpu_script.py"  # speaks of the mark, and needs no GPU
    return tuple(path.relative_to(root).as_posix() for path in marked if path not in taken and path != here)


def registry() -> dict[str, Part]:
    """All parts, in the order they run in. Another part is another entry; the defaults stay under 540 s together."""
    others = other_gpu_tests()
    return {
        "info": Part("the machine, and the ceilings measured on it", (script("info", 25),)),
        "kernels": Part(
            "every kernel against float64", (gpu_tests("kernels", 105, *KERNEL_TESTS, workers=WORKERS, dry=SMALL),)
        ),
        "graphs": Part(
            "graph == eager, bit by bit; then the latency of both",
            (gpu_tests("graphs-tests", 40, *GRAPH_TESTS), script("graphs", 50)),
        ),
        "attention": Part(
            "the hand-written attention against float64, under compute-sanitizer, beside others; after `make build`",
            (
                script("golden", 40),
                gpu_tests("attention-tests", 40, *ATTENTION_TESTS, dry=("-k", "test_attention_device")),
                script("attention", 50),
                Command("attention-sanitizer", 45, ("benchmarks/sanitizer.py", "--attention", "--seconds=40")),
            ),
        ),
        "sanitizer": Part(
            "memcheck, racecheck and synccheck on the other kernels",
            (script("sanitizer", 45, "--ops", "--seconds=40"),),
        ),
        "bench": Part("the step and the norms beside their baselines", (script("step", 60), script("norms", 35))),
        "tests": Part("gpu-marked tests of other files", (gpu_tests("tests", 5, *others),), default=bool(others)),
    }


def gpu_name() -> str | None:
    """The first GPU's name as torch sees it, asked in another process so that this one holds no context on it."""
    ask = "import torch; print('\\n' + torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    found = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    lines = found.stdout.strip().splitlines()
    return lines[-1] if found.returncode == 0 and lines else None


def slug(name: str) -> str:
    """A folder's name: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main(argv: Sequence[str] | None = None, parts: dict[str, Part] | None = None) -> int:
    """The command line; `parts` stands in for the registry in tests."""
    known = registry() if parts is None else parts
    defaults = [name for name, part in known.items() if part.default]
    parser = argparse.ArgumentParser(description="What only an NVIDIA GPU can show, in parts; see docs/gpu.md.")
    parser.add_argument("--parts", default="", help=f"of {' '.join(known)}; by default {' '.join(defaults)}")
    parser.add_argument("--dry-run", action="store_true", help="walk the parts on a CPU; proves nothing about a GPU")
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu", help="folder of results.tar and summary.json")
    options = parser.parse_args(argv)
    wanted = options.parts.split() or defaults
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"parts: got {' '.join(unknown)}; allowed: {' '.join(known)}")
    name = None if options.dry_run else gpu_name()
    if name is None and not options.dry_run:
        print("No NVIDIA GPU that torch can use, so nothing was proven; DRY_RUN=1 walks the parts on a CPU.")
        return exit_code([])
    machine = "dry-run" if name is None else slug(name)
    out = options.out.resolve()
    results = out / "dry-run" if options.dry_run else ROOT / "benchmarks/results" / machine
    run = Run(machine, out, results, options.dry_run, ROOT)
    return run.run({name: part for name, part in known.items() if name in wanted})


if __name__ == "__main__":
    sys.exit(main())

"""`make gpu`: what only an NVIDIA GPU can show, in parts, each bounded in time. docs/gpu.md tells how to read it.

A part is a list of commands, each in a process of its own that is stopped at its time limit. A call runs the parts that
fit into its budget and goes on where the last one ended. After every part its results are written, copied into
benchmarks/results/<gpu>/ and put into one tar, so that whatever stops the run leaves what was done. Standard library
only: it must work where nothing is installed but torch and what the parts need.

A command is a pytest run, counted from its report, or a script of this folder, called with `--out STEM` and, in a dry
run, `--dry-run`. A script writes STEM.json with {"checks": {"passed": n, "failed": n}, "not_run": [reasons]} and exits
with 0, with 1 where a check failed, or with 77 where it could not run.
"""

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import adopt
from commands import Command, Part
from partwise import BUDGET_SECONDS, Run
from progress import Progress
from verdicts import exit_code

ROOT = Path(__file__).resolve().parent.parent


def script(name: str, seconds: float, *arguments: str) -> Command:
    """A script of this folder."""
    return Command(name, seconds, (f"benchmarks/{name}.py", *arguments))


def adopted(after: str) -> Command:
    """What the results so far decide, written where the library reads it."""
    return Command(f"{after}-adopt", 10, ("benchmarks/adopt.py", "--from-out"))


def gpu_tests(name: str, seconds: float, *patterns: str, workers: int = 1, dry: tuple[str, ...] = ()) -> Command:
    """The gpu-marked tests of some files; in a dry run, what those tests are on a CPU."""
    return Command(name, seconds, patterns, pytest=True, workers=workers, dry=dry)


KERNEL_TESTS = ("tests/kernels/test_fused_*.py", "tests/kernels/test_kernel_*.py")
GRAPH_TESTS = ("tests/run/test_graphs*.py", "tests/request/test_manifest.py")
ATTENTION_TESTS = ("tests/csrc/test_attention_*.py", "tests/kernels/test_attention_*.py")
MARKED = re.compile(r"mark\.gpu|def test_\w+\([^)]*\bdevice: str")  # by itself, or by the fixture of tests/conftest.py
WORKERS = 8  # kernels are compiled before they run, one after another in each process
UNETS = (
    ("sd15", "Stable Diffusion 1.5: calls, runs and the decode, beside diffusers'", 150.0),
    ("sdxl", "SDXL: the same", 240.0),
    ("small", "the CIFAR-10 DDPM U-Net and the digits: calls and runs", 120.0),
)
SMALL = ("-k", "not tile and not 63x21")  # `make test` interprets the others too
OF_ATTENTION = ("csrc", "kernels")
KIT = ROOT / "build/gpu-kit.tar.xz"
ASK_SECONDS = 120  # for torch's first look at the GPU


def unets(part: str, what: str, seconds: float) -> Part:
    """A part of benchmarks/unets.py: by name alone, since a call of `make gpu` is for what proves."""
    command = Command(part, seconds, ("benchmarks/unets.py", "--part", part))
    return Part(what, (command,), 0.6 * seconds, walked=15, default=False, sources=("engine", "kernels"))


def other_gpu_tests(root: Path = ROOT) -> tuple[str, ...]:
    """Files with gpu-marked tests that no part below names: so that no such test is left out."""
    taken = {path for pattern in KERNEL_TESTS + GRAPH_TESTS + ATTENTION_TESTS for path in root.glob(pattern)}
    marked = (path for path in sorted(root.glob("tests/**/test_*.py")) if MARKED.search(path.read_text()))
    here = root / "tests/benchmarks/test_gpu_script.py"  # speaks of the mark, and needs no GPU
    return tuple(path.relative_to(root).as_posix() for path in marked if path not in taken and path != here)


def registry() -> dict[str, Part]:
    """All parts, in the order they run in: what would make later ones useless is found first.

    Another part is another entry; its limit fits a call's budget, and all limits fit three of them.
    """
    others = other_gpu_tests()
    return {
        "info": Part(
            "the machine, and the ceilings measured on it", (script("info", 30),), 20, 10, sources=(), decides=True
        ),
        "build": Part(
            "the CUDA modules for this device: from the kit, else by nvcc",
            (script("build_modules", 300),),
            expected=30 if KIT.exists() else 200,
            walked=90,
            sources=("csrc",),
            decides=True,
        ),
        "golden": Part(
            "what Hopper's instructions do to bytes, beside the emulator's answers; then the widths that follow",
            (script("golden", 60), adopted("golden")),
            expected=20,
            walked=25,
            sources=("csrc",),
            decides=True,
        ),
        "smoke": Part(
            "every attention kernel and head dim once or twice, where a hang ends and is named",
            (script("smoke", 150),),
            expected=40,
            walked=20,
            sources=OF_ATTENTION,
        ),
        "attention": Part(
            "the hand-written attention against float64",
            (gpu_tests("attention-tests", 90, *ATTENTION_TESTS, dry=("-k", "test_attention_device")),),
            expected=40,
            walked=25,
            sources=OF_ATTENTION,
        ),
        "sweep": Part(
            "its designs and its table beside torch's own; then the shapes where it is ahead",
            (script("sweep", 70), script("attention", 60), adopted("sweep")),
            expected=110,
            walked=40,
            sources=OF_ATTENTION,
        ),
        "ncu": Part("three kernels under Nsight Compute", (script("ncu", 90),), 45, 20, sources=OF_ATTENTION),
        "kernels": Part(
            "every kernel against float64",
            (gpu_tests("kernels", 140, *KERNEL_TESTS, workers=WORKERS, dry=SMALL),),
            expected=100,
            walked=70,
            sources=("engine", "kernels"),
        ),
        "graphs": Part(
            "graph == eager, bit by bit; then the latency of both",
            (gpu_tests("graphs-tests", 60, *GRAPH_TESTS), script("graphs", 60)),
            expected=80,
            walked=60,
            sources=("engine", "kernels"),
        ),
        "sanitizer": Part(
            "memcheck, racecheck and synccheck on every kernel; initcheck on attention",
            (
                Command("attention-sanitizer", 55, ("benchmarks/sanitizer.py", "--attention", "--seconds=45")),
                script("sanitizer", 55, "--ops", "--seconds=45"),
            ),
            expected=80,
            walked=50,
        ),
        "bench": Part(
            "every op beside the same in plain torch and by torch.compile",
            (script("ops", 105, "--seconds=80", "--compile-seconds=45"),),
            expected=90,
            walked=60,
            sources=("engine", "kernels"),
        ),
        **{name: unets(name, what, seconds) for name, what, seconds in UNETS},
        "matrix": Part(
            "all networks beside their baselines, cell by cell: each call by name goes on where the last one ended",
            (script("network_matrix", 480),),
            walked=60,
            default=False,
            sources=("engine", "kernels"),
        ),
        "tests": Part("gpu-marked tests of other files", (gpu_tests("tests", 30, *others),), default=bool(others)),
    }


def gpu_name() -> str | None:
    """The first GPU's name as torch sees it, asked in another process so that this one holds no context on it."""
    ask = "import torch; print('\\n' + torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    try:
        found = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=ASK_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    lines = found.stdout.strip().splitlines()
    return lines[-1] if found.returncode == 0 and lines else None


def versions() -> str:
    """What a result depends on beside the tree and the GPU."""
    return " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch",))


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
    parser.add_argument(
        "--budget-seconds", type=float, default=BUDGET_SECONDS, metavar="S", help="of this call; by default %(default)g"
    )
    parser.add_argument("--again", action="store_true", help="forget what earlier calls have done")
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
    with ExitStack() as stack:
        if options.dry_run:  # always anew
            results = out / machine
            stage = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fewstep-gpu-"))) / machine
        else:
            results, stage = ROOT / "benchmarks/results" / machine, ROOT / "build/gpu-state" / machine
        progress = Progress(stage, ROOT, versions())
        if not options.dry_run:
            said = adopt.adopt([stage], ROOT / adopt.MEASURED)  # a copied tree may be as it was before the last call
            print("" if said in (adopt.EMPTY, adopt.SAME) else said, end="")
        run = Run(machine, out, results, options.dry_run, ROOT, progress)
        chosen = {name: part.walk() if options.dry_run else part for name, part in known.items() if name in wanted}
        return run.run(chosen, options.budget_seconds, options.again)


if __name__ == "__main__":
    sys.exit(main())

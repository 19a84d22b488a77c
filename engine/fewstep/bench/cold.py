"""Cold start and peak memory, each contender in a process of its own: import, load, compile, capture, first image.

The caches of the engine, of Inductor and of Triton are empty folders: what is compiled is compiled there. Where that
took a second, a further process finds them full, as the next start of a program does.
"""

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewstep.bench.clock import Now, clock_of
from fewstep.bench.contenders import (
    BARE,
    BY_HAND,
    CHANNELS_LAST,
    DIFFUSERS,
    DTYPES,
    EAGER,
    ENGINE,
    ONNXRUNTIME,
    RACERS,
    Case,
    Contender,
    Racer,
)
from fewstep.bench.results import MEASURED, Row
from fewstep.bench.subjects import Subject, open_subject
from fewstep.errors import FewstepError, PlanWarning

SECONDS = 300.0  # that a start may take
WORTH_KEEPING = 1.0  # seconds of compiling, from which on a start with full caches is measured as well
CACHES = ("FEWSTEP_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH")
THEIRS = "import torch, diffusers; diffusers.UNet2DModel, diffusers.DDIMPipeline"
IMPORTS = {
    ENGINE: "import fewstep",
    DIFFUSERS: THEIRS,
    CHANNELS_LAST: THEIRS,
    BY_HAND: "import torch, openvino",
    ONNXRUNTIME: "import torch, onnxruntime",
}
OWN = (ENGINE, EAGER)  # kinds that run our module, and so need none of diffusers'
CAPTURED_BY = 4  # images: an engine captures what is asked for repeatedly


@dataclass(frozen=True)
class ColdStart:
    """A contender's first image in a new process.

    Attributes:
        contender: its name.
        status: "measured", or why not.
        import_seconds: of what its users import, torch's own import included.
        load_seconds: until the network is in memory in its dtype. diffusers' module is filled with the weights of ours,
            so that theirs has the making of both.
        compile_seconds: that the first image took beyond those after it: to convert or compile, or only to warm up.
        capture_seconds: to capture the graphs, on a GPU.
        first_image_seconds: one image in one step, with the network in memory: compiling included.
        cached_seconds: `compile_seconds` with caches that an earlier process filled.
        peak_bytes: the most memory after that and a step at the largest batch: of the GPU, or on a CPU of the process.
        host_bytes: the most of the process.
    """

    contender: str
    status: str
    import_seconds: float | None = None
    load_seconds: float | None = None
    compile_seconds: float | None = None
    capture_seconds: float | None = None
    first_image_seconds: float | None = None
    cached_seconds: float | None = None
    peak_bytes: int | None = None
    host_bytes: int | None = None

    @property
    def columns(self) -> dict[str, float | None]:
        """Those of `results.Row`."""
        return {
            "load_s": self.load_seconds,
            "compile_s": self.compile_seconds,
            "capture_s": self.capture_seconds,
            "peak_bytes": self.peak_bytes,
        }


def cold_starts(
    subject: Subject, contenders: Sequence[Contender], batch: int, seconds: float = SECONDS
) -> list[ColdStart]:
    """The cold start of each contender, one after the other; not of the network's calls alone, which make no image.

    Args:
        subject: made again in each process by its `source`.
        contenders: those that took part.
        batch: the largest.
        seconds: that each may take; a longer one is said to have failed.
    """
    import torch

    there = {"device": str(subject.engine.device), "max_batch": subject.engine.max_batch}
    task = {"source": dict(subject.source) | there, "batch": batch, "threads": torch.get_num_threads()}
    return [_both(each, task, seconds) for each in contenders if each.kind != BARE]


def with_cold(rows: Sequence[Row], starts: Sequence[ColdStart]) -> list[Row]:
    """Rows of one network with the columns of its contenders' cold starts, where they were measured."""
    found: dict[str, dict[str, Any]] = {each.contender: each.columns for each in starts if each.status == MEASURED}
    return [replace(row, **found.get(row.contender, {})) if row.status == MEASURED else row for row in rows]


def _both(contender: Contender, task: Mapping[str, object], seconds: float) -> ColdStart:
    """With empty caches, and where it is worth it with full ones."""
    with tempfile.TemporaryDirectory() as folder:
        first = _start(contender, task, folder, seconds)
        if first.status != MEASURED or (first.compile_seconds or 0.0) < WORTH_KEEPING:
            return first
        return replace(first, cached_seconds=_start(contender, {**task, "batch": 1}, folder, seconds).compile_seconds)


def _start(contender: Contender, task: Mapping[str, object], folder: str, seconds: float) -> ColdStart:
    script = (
        f"import time; start = time.perf_counter(); {_imports(contender)}\n"
        "seconds = time.perf_counter() - start\nfrom fewstep.bench.cold import report\nreport(seconds)"
    )
    caches = {name: os.path.join(folder, name.lower()) for name in CACHES}
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | caches
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps({**task, "contender": vars(contender)}).encode(),
            env=env,
            capture_output=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as late:
        return _read(contender, late.stdout or b"", f"failed: took longer than {seconds:g} s")
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return _read(contender, done.stdout, f"failed: {lines[-1] if lines else f'exit code {done.returncode}'}")


def _imports(contender: Contender) -> str:
    said = IMPORTS.get(contender.kind, "import torch")
    return f"{said}, openvino" if contender.kind == ENGINE and contender.backend == "openvino" else said


def _read(contender: Contender, output: bytes, failed: str) -> ColdStart:
    """The last that the process told: its numbers, or why it has none."""
    for line in reversed(output.decode(errors="replace").splitlines()):
        try:
            return ColdStart(contender.name, **json.loads(line))
        except (ValueError, TypeError):
            continue  # something else that was printed
    return ColdStart(contender.name, failed)


def report(import_seconds: float) -> None:
    """In the new process: read the task, make an image, write the numbers as soon as they are known."""
    import torch

    task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    contender = Contender(**task["contender"])
    if contender.kind in OWN:
        sys.modules["diffusers"] = None  # type: ignore[assignment] # so that its module is not made beside ours
    warnings.simplefilter("ignore")
    try:
        _tell(start_of(contender, task["source"], task["batch"], import_seconds))
    except FewstepError as error:
        _tell({"status": f"failed: {error}"})


def start_of(
    contender: Contender,
    source: Mapping[str, Any],
    batch: int,
    import_seconds: float,
    tell: Callable[[Mapping[str, object]], None] | None = None,
) -> dict[str, object]:
    """The attributes of a `ColdStart` in this process, which should be new; `tell` gets those before the peak."""
    import torch

    now = clock_of(torch.device(source["device"]))
    started = now()
    subject = open_subject(**source)
    if contender.backend != "torch" or not contender.exact:
        subject = subject.on(contender.backend, DTYPES[contender.dtype])
    racer = RACERS[contender.kind](contender, subject)
    found: dict[str, object] = {"import_seconds": import_seconds, "load_seconds": now() - started}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)  # a student that was trained for more steps is asked for one
        return found | _images(racer, batch, now, lambda more: (_tell if tell is None else tell)(found | more))


def _images(racer: Racer, batch: int, now: Now, tell: Callable[[dict[str, object]], None]) -> dict[str, object]:
    case = _case(racer)
    racer.prepare(case)
    if racer.lacks:
        return {"status": racer.lacks}
    run = racer.run(case)
    captured = _captured(racer, run)
    started = now()
    run(1)
    ready = racer.ready.get(case.batch, 0.0)
    first = ready + now() - started
    found: dict[str, object] = {"status": MEASURED, "compile_seconds": ready, "capture_seconds": captured}
    found["first_image_seconds"] = first
    tell(found)
    if batch > case.batch:
        large = replace(case, batch=batch)
        racer.prepare(large)
        if not racer.lacks:
            racer.run(large)(0)
    return found | _peaks(racer.subject)


def _case(racer: Racer) -> Case:
    """One image in one step, by a sampler that the contender has."""
    usual = racer.subject.engine.model.defaults["sampler"]
    cases = [Case(sampler, 1, 1) for sampler in dict.fromkeys((usual, "ddim", "ddpm"))]
    return next((case for case in cases if not racer.absent(case)), cases[0])


def _captured(racer: Racer, run: Callable[[int], object]) -> float | None:
    """The seconds that an engine needed for its graphs, once it has any."""
    if racer.contender.kind != ENGINE or racer.subject.engine.device.type != "cuda":
        return None
    for seed in range(CAPTURED_BY):
        run(seed)
    seconds = racer.subject.engine.stats().get("capture_seconds")
    return None if seconds is None else float(seconds)


def _peaks(subject: Subject) -> dict[str, object]:
    import torch

    from fewstep.bench.machine import peak_memory

    device, host = subject.engine.device, peak_memory()
    return {
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else host,
        "host_bytes": host,
    }


def _tell(numbers: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(numbers) + "\n")
    sys.stdout.flush()


__all__ = ["ColdStart", "cold_starts", "report", "start_of", "with_cold"]

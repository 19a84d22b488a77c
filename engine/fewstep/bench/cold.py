"""Cold start and peak memory, each contender in a process of its own: import, first image, most memory resident."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fewstep.bench.contenders import DIFFUSERS, ENGINE, RACERS, Case, Contender
from fewstep.bench.subjects import Subject, open_subject

SECONDS = 300
IMPORTS = {ENGINE: "import fewstep", DIFFUSERS: "import diffusers; diffusers.UNet2DModel, diffusers.DDIMPipeline"}


@dataclass(frozen=True)
class ColdStart:
    """A contender's first image in a new process."""

    contender: str
    status: str  # "measured", or why not
    import_seconds: float | None = None  # torch's own import included
    first_image_seconds: float | None = None  # one image in one step, with the network already in memory
    peak_bytes: int | None = None  # after that, and one step at the largest batch


def cold_starts(subject: Subject, contenders: Sequence[Contender], batch: int) -> list[ColdStart]:
    """The cold start of each engine and of diffusers in float32, one after the other."""
    import torch

    task = {"source": dict(subject.source), "batch": batch, "threads": torch.get_num_threads()}
    return [_start(each, subject, task) for each in contenders if each.exact and each.kind in IMPORTS]


def _start(contender: Contender, subject: Subject, task: Mapping[str, object]) -> ColdStart:
    if contender.kind == DIFFUSERS and subject.lacks_diffusers:
        return ColdStart(contender.name, subject.lacks_diffusers)
    script = (
        f"import time; start = time.perf_counter(); {IMPORTS[contender.kind]}\n"
        "seconds = time.perf_counter() - start\nfrom fewstep.bench.cold import report\nreport(seconds)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps({**task, "contender": vars(contender)}),
            env=env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        return ColdStart(contender.name, "measured", **json.loads(done.stdout.splitlines()[-1]))
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        return ColdStart(contender.name, f"failed: {type(error).__name__}")


def report(import_seconds: float) -> None:
    """In the new process: read the task, make an image, write the numbers."""
    import torch

    from fewstep.bench.machine import peak_memory

    task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    subject, contender = open_subject(**task["source"]), Contender(**task["contender"])
    if contender.backend != "torch":
        subject = subject.on(contender.backend, subject.engine.dtype)
    racer = RACERS[contender.kind](contender, subject)
    sampler = subject.engine.model.defaults["sampler"]
    started = time.perf_counter()
    racer.run(Case(sampler, 1, 1))(0)
    first = time.perf_counter() - started
    racer.run(Case(sampler, 1, task["batch"]))(0)
    numbers = {"import_seconds": import_seconds, "first_image_seconds": first, "peak_bytes": peak_memory()}
    sys.stdout.write(json.dumps(numbers) + "\n")

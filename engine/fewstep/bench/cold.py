"""Cold start and peak memory, each contender in a process of its own: import, first image, most memory resident."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fewstep.bench.contenders import DIFFUSERS, ENGINE
from fewstep.bench.lineup import Entrant, Lineup
from fewstep.bench.subjects import open_subject

SECONDS = 300
SCRIPTS = {
    ENGINE: "from fewstep.bench.cold import engine_once as once, report",
    DIFFUSERS: "from fewstep.bench.cold import diffusers_once as once, report",
}
IMPORTS = {ENGINE: "import fewstep", DIFFUSERS: "import diffusers; diffusers.UNet2DModel, diffusers.DDIMPipeline"}


@dataclass(frozen=True)
class ColdStart:
    """A contender's first image in a new process."""

    contender: str
    status: str  # "measured", or why not
    import_seconds: float | None = None  # torch's own import included
    first_image_seconds: float | None = None  # one image in one step, with the network already in memory
    peak_bytes: int | None = None  # after that, and one step at the largest batch


def cold_starts(lineup: Lineup, batch: int) -> list[ColdStart]:
    """The cold start of each engine that takes part and of diffusers, in float32, one after the other."""
    import torch

    task = {"batch": batch, "threads": torch.get_num_threads(), "source": dict(lineup.exact.source)}
    return [
        _start(entrant, task)
        for entrant in lineup.entrants
        if entrant.contender.exact
        and (entrant.contender.kind == DIFFUSERS or (entrant.contender.kind == ENGINE and not entrant.lacks))
    ]


def _start(entrant: Entrant, task: Mapping[str, object]) -> ColdStart:
    name, contender = entrant.contender.name, entrant.contender.kind
    if entrant.lacks or (contender == DIFFUSERS and entrant.subject.lacks_diffusers):
        return ColdStart(name, entrant.lacks or entrant.subject.lacks_diffusers)
    script = (
        f"import time; start = time.perf_counter(); {IMPORTS[contender]}\n"
        f"seconds = time.perf_counter() - start\n{SCRIPTS[contender]}\nreport(seconds, once)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps({**task, "backend": entrant.contender.backend}),
            env=env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        return ColdStart(name, "measured", **json.loads(done.stdout.splitlines()[-1]))
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        return ColdStart(name, f"failed: {type(error).__name__}")


def report(import_seconds: float, once: Any) -> None:
    """In the new process: read the task, make an image, write the numbers."""
    import torch

    from fewstep.bench.machine import peak_memory

    task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    sample = once(task)
    started = time.perf_counter()
    sample(1)
    first = time.perf_counter() - started
    sample(task["batch"])
    numbers = {"import_seconds": import_seconds, "first_image_seconds": first, "peak_bytes": peak_memory()}
    sys.stdout.write(json.dumps(numbers) + "\n")


def engine_once(task: Mapping[str, Any]) -> Any:
    """The engine's sampler for a task, its network in memory."""
    import torch

    subject = open_subject(**task["source"]).on(task["backend"], torch.float32)
    return lambda n: subject.engine.sample(n, steps=1, seeds=0, **subject.asked(n))


def diffusers_once(task: Mapping[str, Any]) -> Any:
    """diffusers' sampler for a task, its network in memory."""
    diffusers: Any = import_module("diffusers")
    unet_2d = open_subject(**task["source"]).theirs
    pipeline = diffusers.DDIMPipeline(unet_2d, diffusers.DDIMScheduler(timestep_spacing="trailing"))
    pipeline.set_progress_bar_config(disable=True)
    return lambda n: pipeline(batch_size=n, num_inference_steps=1, output_type="pt")

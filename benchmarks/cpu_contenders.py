"""One contender of cpu_backends.py, in a process of its own: it makes a network ready and runs when it is told to.

It is started by cpu_backends.py, which may put an older fewstep in its path, of a revision that has
`fewstep.bench.subjects`. Lines of JSON go both ways. Its first says that the network is there, or why it cannot be;
each line of stdin is then a task, and each line of stdout its result:

    {"images": PATH, "batch": B}        draw B images from the shared noise into PATH; {"seconds": of it, "about": ...}
    {"runs": N, "batch": B, "warm": W}  W runs that are not counted and N that are; {"seconds": [...]}
"""

import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import unet_cases
from torch import Tensor, nn

from fewstep import Engine, Model
from fewstep.bench.loops import LOOPS
from fewstep.bench.subjects import open_subject
from fewstep.diffusion.samplers import build_plan
from fewstep.errors import PlanWarning

CPU = torch.device("cpu")
CONDITIONAL = {  # four levels, of the kind that Stable Diffusion is
    "sample_size": 64,
    "block_out_channels": (128, 256, 384, 512),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "cross_attention_dim": 512,
    "attention_head_dim": 8,
}
SAID = {"INFERENCE_NUM_THREADS": 2, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}


@dataclass
class Case:
    """A network, and how it is sampled."""

    network: unet_cases.Network
    sampler: str
    steps: int
    _inputs: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        """Ours."""
        return self.network.model

    def noise(self, batch: int) -> Tensor:
        """What every contender starts from: [B, C, H, W], the same in all processes."""
        return torch.randn(batch, *self.model.shape, generator=torch.Generator().manual_seed(1))

    def asked(self, batch: int) -> dict[str, Any]:
        """What `Engine.sample` is told beside its plan."""
        return self.network.asked(batch)

    def inputs(self, batch: int) -> dict[str, Tensor]:
        """What our network takes beside x and t, where it prepares nothing."""
        return self.network.subject.inputs(batch)


def case_of(name: str, steps: int, folder: str = "", beside: bool = True) -> Case:
    """A network by its name on the command line of cpu_backends.py; of the same numbers in every process.

    `beside` makes diffusers' module too, where a large network has one.
    """
    if name == "cifar10":
        return Case(unet_cases.cifar10(CPU, dry_run=False), "ddim", steps)
    if name == "digits":
        return Case(unet_cases.digits(CPU, steps), "ddim", steps)
    if name == "terrain":
        return Case(unet_cases.terrain(folder), "consistency", steps)
    if name == "conditional":
        return Case(unet_cases.conditional_of(name, CONDITIONAL, CPU, beside), "ddim", steps)
    return Case(unet_cases.Network(name, open_subject(name, size=32, beside=beside)), "ddim", steps)


class OurEngine:
    """`Engine.sample`."""

    def __init__(self, case: Case, dtype: torch.dtype, backend: str | None) -> None:
        named = {} if backend is None else {"backend": backend}
        self.case, self.backend = case, backend
        self.engine = Engine(case.model, device="cpu", dtype=dtype, **named)
        schedule, prediction = case.model.schedule, case.model.prediction
        self.plan = build_plan(case.sampler, schedule, case.steps, prediction=prediction, spacing="trailing")

    def __call__(self, batch: int, seed: int) -> Tensor:
        """Images from a seed; from the shared noise where it is 0."""
        start = {"noise": self.case.noise(batch)} if seed == 0 else {}
        return self.engine.sample(batch, plan=self.plan, seeds=seed, **start, **self.case.asked(batch)).images

    def about(self) -> dict[str, Any]:
        """What executed the network; why it is another backend than was asked for is under "absent"."""
        stats: dict[str, Any] = getattr(self.engine, "stats", dict)().get("backend", {})
        if self.backend not in (None, stats.get("name")):
            why = [str(call["why"]) for call in stats.get("calls", []) if "why" in call]
            return {"absent": why[-1] if why else f"{stats.get('name')} ran in its place"}
        return {"calls": stats.get("calls", [])}


class TheirLoop:
    """diffusers' module and its DDIM scheduler, as its pipelines call them: all of it in the module's dtype."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        import diffusers

        kind: Any = diffusers.DDIMScheduler
        betas = case.model.schedule.betas.tolist()
        self.scheduler = kind(len(betas), trained_betas=betas, clip_sample=False, timestep_spacing="trailing")
        self.case, self.dtype = case, dtype
        self.unet = nn.Module.to(case.network.theirs, dtype)
        case.model.module.to("meta")  # which frees what is not run here

    @torch.no_grad()
    def __call__(self, batch: int, seed: int) -> Tensor:
        """Images from the shared noise."""
        del seed
        self.scheduler.set_timesteps(self.case.steps)
        x = self.case.noise(batch).to(self.dtype)
        arguments = self.case.network.their_arguments(batch, self.dtype)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.unet(x, t, **arguments).sample, t, x).prev_sample
        return x

    def about(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class ByName(nn.Module):
    """A network that is called by position."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, x: Tensor, t: Tensor, *rest: Tensor) -> Tensor:
        """Its answer as a tensor."""
        answer = self.module(x, t, **dict(zip(self.names, rest, strict=True)))
        taken: Tensor = getattr(answer, "sample", answer)
        return taken


class ByHand:
    """OpenVINO as one calls it oneself: diffusers' module where there is one, exported, converted and compiled for a
    batch; inputs bound once, then `infer` in the plain loop that papers have.
    """

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        self.case, self.dtype = case, dtype
        self.ready: dict[int, Callable[[Tensor, Tensor], Tensor]] = {}
        self.bound: list[tuple[Tensor, ...]] = []

    @torch.no_grad()
    def __call__(self, batch: int, seed: int) -> Tensor:
        """Images from the shared noise."""
        del seed
        if batch not in self.ready:
            self.ready[batch] = self.compiled(batch)
        model = self.case.model
        draw = partial(self.case.noise, batch)
        return LOOPS[self.case.sampler].loop(self.ready[batch], model.schedule, self.case.steps, model.prediction, draw)

    def compiled(self, batch: int) -> Callable[[Tensor, Tensor], Tensor]:
        """A call of the network: its answer holds until the next."""
        from fewstep.run.backends.openvino_import import openvino_module  # the library, without its telemetry

        openvino: Any = openvino_module()
        case, theirs = self.case, self.case.network.theirs
        given = case.inputs(batch) if theirs is None else case.network.their_arguments(batch, torch.float32)
        network = ByName(case.model.module if theirs is None else theirs, tuple(given)).eval()
        x, t = case.noise(batch), torch.full((batch,), 500, dtype=torch.int64)
        if case.model.schedule.kind != "vp":
            t = t.float()
        inputs = (x, t, *(each.contiguous() for each in given.values()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(network, inputs, strict=False).run_decompositions()
            converted = openvino.convert_model(program)
        converted.reshape({place: list(each.shape) for place, each in enumerate(inputs)})
        precision = {"INFERENCE_PRECISION_HINT": "bf16" if self.dtype == torch.bfloat16 else "f32"}
        request = openvino.Core().compile_model(converted, "CPU", SAID | precision).create_infer_request()
        for place, each in enumerate(inputs):
            request.set_input_tensor(place, openvino.Tensor(each.numpy(), shared_memory=True))
        answer = torch.from_numpy(request.get_output_tensor(0).data)

        def call(x_in: Tensor, level: Tensor) -> Tensor:
            x.copy_(x_in)
            t.copy_(level)
            request.infer()
            return answer[:, : case.model.shape[0]]

        self.bound.append(inputs)  # OpenVINO reads them where they lie
        return call

    def about(self) -> dict[str, Any]:
        """Nothing."""
        return {}


def made(task: Mapping[str, Any]) -> tuple[Any, str]:
    """The contender of a task, or None and the reason."""
    kind, dtype = task["kind"], getattr(torch, task["dtype"])
    case = case_of(task["network"], task["steps"], task["folder"], beside=kind in ("diffusers", "by hand"))
    if kind == "diffusers":
        return (None, case.network.lacks) if case.network.theirs is None else (TheirLoop(case, dtype), "")
    if kind == "by hand":
        return ByHand(case, dtype), ""
    return OurEngine(case, dtype, None if kind == "before" else kind), ""


def main() -> int:
    """Serve tasks until stdin ends."""
    warnings.simplefilter("ignore", PlanWarning)
    task = json.loads(sys.stdin.readline())
    torch.set_num_threads(task["threads"])
    say = partial(print, file=sys.stdout, flush=True)
    contender, lacks = made(task)
    say(json.dumps({"absent": lacks} if lacks else {"threads": torch.get_num_threads()}))
    for line in sys.stdin:
        asked = json.loads(line)
        batch = asked["batch"]
        if "images" in asked:
            started = time.perf_counter()
            images = contender(batch, 0)
            found = {"seconds": time.perf_counter() - started, **contender.about()}
            np.save(Path(asked["images"]), images.float().numpy())
            say(json.dumps(found, default=str))
            continue
        seconds = []
        for turn in range(asked["warm"] + asked["runs"]):
            started = time.perf_counter()
            contender(batch, 1 + turn)
            seconds.append(time.perf_counter() - started)
        say(json.dumps({"seconds": seconds[asked["warm"] :]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

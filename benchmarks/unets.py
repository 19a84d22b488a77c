"""Whole U-Nets: a call of one, a run of 1 and of 4 steps, and the decode of latents, fewstep's beside diffusers'.

    python benchmarks/unets.py --part sd15 --out build/sd15       on an NVIDIA GPU; or sdxl, or small
    python benchmarks/unets.py --part sd15 --dry-run              on a CPU, a small network of the same kind

Parity comes first, or there is no speed. In float32 (products in full precision) a call and a run of 4 steps must be
diffusers' own within 1e-4; without diffusers a call must be what torch's own layers give. In bfloat16 a call's error
from that may be twice diffusers' own in bfloat16, or that of torch's layers, plus one eps. A graph must be the eager
call bit by bit.

    contender                 a call of the network
    fewstep                   keys, values and the modulation made ahead, as in a run
    fewstep, graph            the same, captured
    diffusers                 its module as it is
    diffusers, channels last  in that memory format
    diffusers, compiled       by torch.compile, where --compile is given: it takes minutes

A run is `Engine.sample`, the host's time from asking to the finished latents: by calls, and as graphs. The decode of
latents (`vae`) stands by itself.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import Report, Spread, capturer_for, describe, put_kernels_in_place, relative_error, script_options, timed
from torch import Tensor
from unet_cases import Network, networks, random_vae

from fewstep import Engine
from fewstep.run.graphs import GraphRunner
from fewstep.run.runners import EagerRunner
from fewstep_kernels import STEP_OPS

PARTS = ("sd15", "sdxl", "small")
BATCHES, RUN_BATCHES = (1, 2, 4, 8), (1, 4)
NEEDED = {"sd15": 12, "sdxl": 48, "small": 2}  # GiB of free memory: both modules in float32, and what they compute
BUDGET = 16 * 2**30  # bytes of graphs
CLOSE = 1e-4  # of two implementations in float32
HALF = torch.bfloat16

Call = Callable[[], Tensor]


class Unets:
    """All networks of a part on one device."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.dry_run, self.compiles = options.device, options.dry_run, options.compile
        self.dtype = HALF
        self.batches, self.run_batches = ((2,), (1,)) if self.dry_run else (BATCHES, RUN_BATCHES)
        self.part, self.report = options.part, Report(options.out, describe(self.device))
        self.report.about |= {"part": self.part, "dtype": str(self.dtype).removeprefix("torch.")}
        if not self.dry_run:  # interpreted, a network takes minutes; other parts walk the kernels
            self.report.about["ops"] = put_kernels_in_place(self.device.type).origin

    def run(self) -> int:
        """Parity of each network, then its rows."""
        if self.dry_run:
            print("DRY RUN: small networks, and the twins in the kernels' place: these times say nothing")
        if self.device.type == "cuda" and (free := torch.cuda.mem_get_info(self.device)[0] >> 30) < NEEDED[self.part]:
            self.report.not_run.append(f"needs {NEEDED[self.part]} GiB of free memory, and {free} are there")
            return self.report.finish()
        for make in networks(self.part, self.device, self.dry_run):
            network = make()
            print(f"{network.name}: {network.about}")
            if self.runs_agree(network) and self.calls_agree(network):
                for batch in self.batches:
                    self.calls(network, batch)
                for steps, batch in itertools.product(network.steps, self.run_batches):
                    self.runs(network, steps, batch)
            self.report.save()
            if self.part != "small":
                self.decodes(network.model.shape)
            del network
        return self.report.finish()

    @torch.no_grad()
    def calls_agree(self, network: Network) -> bool:
        """Whether a call is right, in float32 and in the dtype that is timed, which both modules have after this."""
        x, t = inputs(network, 2, torch.float32, self.device)
        ours = our_call(network, x, t)()
        if network.theirs is not None:
            exact = their_call(network, x, t)()
        else:
            with torch.enable_grad():
                exact = our_call(network, x, t)().detach()  # torch's own layers, which training differentiates
        error = relative_error(ours, exact)
        holds = self.report.check(f"{network.name}: a call in float32 is off by {error:.1e}", error <= CLOSE)
        network.cast(self.dtype)
        x, t = inputs(network, 2, self.dtype, self.device)
        error = relative_error(our_call(network, x, t)(), exact)
        if network.theirs is not None:
            own = relative_error(their_call(network, x, t)(), exact)
        else:
            with torch.enable_grad():
                own = relative_error(our_call(network, x, t)().detach(), exact)
        allowed = 2 * own + torch.finfo(self.dtype).eps
        self.report.about[f"{network.name} error"] = {"fewstep": error, "allowed": allowed}
        text = f"{network.name}: a call in {self.dtype} is off by {error:.1e}, allowed {allowed:.1e}"
        return self.report.check(text, error <= allowed) and holds

    @torch.no_grad()
    def runs_agree(self, network: Network) -> bool:
        """Whether 4 steps in float32 end where diffusers' own loop does; True where there is none to ask."""
        if network.theirs is None:
            return True
        import diffusers

        batch, steps = 2, 4
        kind: Any = diffusers.DDIMScheduler
        betas = network.model.schedule.betas.tolist()
        scheduler = kind(len(betas), trained_betas=betas, clip_sample=False, timestep_spacing="trailing")
        scheduler.set_timesteps(steps, device=self.device)
        start, _ = inputs(network, batch, torch.float32, self.device)
        engine = Engine(network.model, device=self.device, runner="eager", backend="torch")
        ours = engine.sample(
            batch, steps=steps, sampler="ddim", noise=start.contiguous(), **network.asked(batch)
        ).images
        x = start.contiguous()
        for t in scheduler.timesteps:
            m = network.theirs(x, t, **network.their_arguments(batch, torch.float32)).sample
            x = scheduler.step(m, t, x).prev_sample
        error = relative_error(ours, x)
        return self.report.check(f"{network.name}: 4 steps in float32 are off by {error:.1e}", error <= CLOSE)

    @torch.no_grad()
    def calls(self, network: Network, batch: int) -> None:
        """A row for each contender."""
        x, t = inputs(network, batch, self.dtype, self.device)
        ours = our_call(network, x, t)
        self.row(network, "call", "fewstep", batch, self.timed(ours))
        wanted = ours().clone()
        answer = torch.zeros_like(wanted)

        def work() -> None:
            answer.copy_(ours())  # so that a replay leaves it where it is looked for

        graph = capturer_for(self.device).capture(work)
        answer.zero_()
        graph.replay()
        same = torch.equal(answer, wanted)
        if self.report.check(f"{network.name}, batch {batch}: the graph of a call differs from the call", same):
            self.row(network, "call", "fewstep, graph", batch, self.timed(graph.replay))
        graph.release()
        self.their_calls(network, batch, x, t)

    def their_calls(self, network: Network, batch: int, x: Tensor, t: Tensor) -> None:
        """diffusers' rows, or the reason why there are none."""
        plain, last, compiled = "diffusers", "diffusers, channels last", "diffusers, compiled"
        if network.theirs is None:
            for name in (plain, last, compiled):
                self.not_run(network, name, batch, network.lacks)
            return
        in_format: Any = torch.nn.Module.to
        in_format(network.theirs, memory_format=torch.contiguous_format)
        self.row(network, "call", plain, batch, self.timed(their_call(network, x.contiguous(), t)))
        in_format(network.theirs, memory_format=torch.channels_last)
        self.row(network, "call", last, batch, self.timed(their_call(network, x, t)))
        if not self.compiles:
            self.not_run(network, compiled, batch, "without --compile")
            return
        try:
            module = torch.compile(network.theirs, fullgraph=True, dynamic=False)
            call = their_call(network, x, t, module)
            error = relative_error(call(), their_call(network, x, t)())
            if self.report.check(f"{network.name}: compiled it is off by {error:.1e}", error <= 0.05):
                self.row(network, "call", compiled, batch, self.timed(call))
        except Exception as error:  # a baseline that cannot be compiled has a row that says so
            self.not_run(network, compiled, batch, f"{type(error).__name__}: {str(error).splitlines()[0][:100]}")

    def runs(self, network: Network, steps: int, batch: int) -> None:
        """A row of the engine by calls and one by graphs, whose bits must be the same."""
        runner = GraphRunner(capturer_for(self.device), BUDGET)
        # one network under both: on a CPU "auto" may give either another backend
        options: dict[str, Any] = {"device": self.device, "dtype": self.dtype, "backend": "torch"}
        engines = {
            "fewstep": Engine(network.model, runner=EagerRunner(STEP_OPS), **options),
            "fewstep, graph": Engine(network.model, runner=runner, **options),
        }
        asked = network.asked(batch)

        def sample(engine: Engine, seed: int) -> Tensor:
            return engine.sample(batch, steps=steps, seeds=seed, **asked).images

        with runner.warming():
            sample(engines["fewstep, graph"], 0)
        held, same = runner.stats(), True
        for seed in (11, 12):
            eager, graph = (sample(engine, seed) for engine in engines.values())
            same &= torch.equal(eager, graph) and bool(torch.isfinite(graph).all())
        about = f"{network.name}, {steps} steps, batch {batch}"
        if not self.report.check(f"{about}: graph and eager differ", same):
            return
        for name, engine in engines.items():
            found = self.sampled(lambda seed, engine=engine: sample(engine, seed))
            more: dict[str, Any] = {"steps": steps}
            if name == "fewstep, graph" and not held["graphs"]:
                more["status"] = "no graph: it did not win, so this is eager too"
            self.row(network, "run", name, batch, found, **more)

    @torch.no_grad()
    def decodes(self, shape: tuple[int, ...]) -> None:
        """The decode of latents of that shape: the autoencoder is diffusers', so without it there is no row."""
        vae, lacks = random_vae(self.device, self.dry_run)
        if vae is None:
            self.report.rows.append({"network": "vae", "work": "decode", "status": f"not run: {lacks}"})
            print(f"vae: not run: {lacks}")
            return
        from fewstep.pipelines.vae import accelerated_vae

        z = torch.randn(2, *shape, device=self.device, generator=torch.Generator(self.device).manual_seed(1))
        exact = vae.decode(z).sample
        error = relative_error(accelerated_vae(vae).decode(z).sample, exact)
        holds = self.report.check(f"vae: a decode in float32 is off by {error:.1e}", error <= CLOSE)
        torch.nn.Module.to(vae, self.dtype)
        ours: Any = accelerated_vae(vae)
        z = z.to(self.dtype)
        own, error = (relative_error(each.decode(z).sample, exact) for each in (vae, ours))
        allowed = 2 * own + torch.finfo(self.dtype).eps
        text = f"vae: a decode in {self.dtype} is off by {error:.1e}, allowed {allowed:.1e}"
        if not (self.report.check(text, error <= allowed) and holds):
            return
        for batch in self.run_batches:
            latents = z[:1].expand(batch, *shape).contiguous()
            for name, module in (("diffusers", vae), ("fewstep", ours)):
                found = self.timed(lambda module=module, latents=latents: module.decode(latents).sample)
                self.add({"network": "vae", "work": "decode", "contender": name, "batch": batch}, found)
        self.report.save()

    def timed(self, work: Callable[[], object]) -> Spread:
        """On the device."""
        return timed(work, self.device, seconds=0.3, quick=self.dry_run)

    def sampled(self, sample: Callable[[int], Tensor]) -> Spread:
        """The host's time of whole requests."""
        least, seconds = (1, 0.0) if self.dry_run else (9, 0.5)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < least or time.perf_counter() < end:
            started = time.perf_counter()
            sample(len(times))
            times.append(time.perf_counter() - started)
        return Spread.of(times)

    def row(self, network: Network, work: str, contender: str, batch: int, found: Spread, **more: Any) -> None:
        """Of a network."""
        about = {"network": network.name, "weights": network.about, "work": work, "contender": contender}
        self.add(about | {"batch": batch} | more, found)

    def add(self, about: dict[str, Any], found: Spread) -> None:
        """A row with its times, on the screen as well."""
        times = {"ms": 1e3 * found.median, "ms_p10": 1e3 * found.low, "ms_p90": 1e3 * found.high}
        row = {"status": "measured", **about, **times, "ms_per_image": times["ms"] / about["batch"]}
        self.report.rows.append(row | {"repeats": found.repeats})
        what = f"{about['network']} {about['work']}" + (f", {about['steps']} steps" if "steps" in about else "")
        spread = f"[{times['ms_p10']:.3f} to {times['ms_p90']:.3f}]"
        print(f"{what:<28}batch {about['batch']}  {about['contender']:<26}{times['ms']:9.3f} ms {spread}", flush=True)

    def not_run(self, network: Network, contender: str, batch: int, reason: str) -> None:
        """A row without a time."""
        about = {"network": network.name, "work": "call", "contender": contender, "batch": batch}
        self.report.rows.append(about | {"status": f"not run: {reason}"})


def inputs(network: Network, batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """x [B, C, H, W] channels last and t [B]."""
    generator = torch.Generator(device).manual_seed(2)
    x = torch.randn(batch, *network.model.shape, device=device, generator=generator)
    t = torch.full((batch,), 749.0, device=device)
    return x.to(dtype).contiguous(memory_format=torch.channels_last), t


def our_call(network: Network, x: Tensor, t: Tensor) -> Call:
    """Of our module, on what is prepared once; the times are those of a plan of 4 steps and what fills its table."""
    times = torch.tensor([999.0, 749.0, 499.0, *[249.0] * 5], device=x.device)
    prepared = network.prepared(times, len(x), x.dtype)
    return lambda: network.module(x, t, **prepared)


def their_call(network: Network, x: Tensor, t: Tensor, module: Any = None) -> Call:
    """Of diffusers' module, or of another in its place."""
    arguments = network.their_arguments(len(x), x.dtype)
    called = network.theirs if module is None else module
    return lambda: called(x, t, **arguments).sample


def main() -> int:
    """The part that --part names."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--part", choices=PARTS, required=True)
    own, rest = parser.parse_known_args()
    options = script_options(__doc__.splitlines()[0], rest, {"compile": "also diffusers' module by torch.compile"})
    options.part = own.part
    torch.backends.cudnn.allow_tf32 = False  # float32 is the reference here
    return Unets(options).run()


if __name__ == "__main__":
    sys.exit(main())

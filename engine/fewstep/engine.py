"""The engine: a denoiser, its schedule and its default plan, ready to sample."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep import manifest
from fewstep.batch import Batch, assemble, split
from fewstep.buffers import Output, Signature, State
from fewstep.callbacks import Callback, Step
from fewstep.decode import Decoder, Images, taken
from fewstep.denoiser import ModuleDenoiser, label_argument_of, parameter_dtype
from fewstep.errors import ArgumentError
from fewstep.guidance_input import GuidanceInput, guidance_from_config
from fewstep.labels import LabelSpec, labels_from_config
from fewstep.plan import Plan
from fewstep.planning import Planner
from fewstep.request import Request, build_request, resolve_seeds, sample_count, starting_noise
from fewstep.results import Samples
from fewstep.runner_choice import runner_for
from fewstep.runners import Runner
from fewstep.schedules import Schedule, from_config
from fewstep.trained import Trained, trained_from_config


class Engine:
    """Samples from a denoiser.

    Args:
        module: the network, called as module(x_in [R, C, H, W], t [R], labels=...). Ours, diffusers', or any other.
        schedule: the schedule it was trained on.
        shape: (C, H, W) of one sample.
        prediction: what it predicts: "eps", "x_0", "v", "flow" or "score".
        labels: None, `ClassLabels`, `ContinuousLabels`, or a dict like {"kind": "classes", "count": 10, "null": 10}.
        plan: the defaults of `Engine.plan`: {"sampler": "ddim", "steps": 4, ...} with options of that sampler, and
            perhaps the guidance_scale to sample with unless told (1 if it is not there).
        guidance: None, or a `GuidanceInput`, or {"min": 1.0, "max": 4.0, "default": 1.5}: the module takes the guidance
            scale itself, as module(..., guidance=[R]), so a sample owns one row of the batch at any scale.
        trained: None, or a `Trained`, or {"sampler": "ddim", "steps": [4]}: what a distilled model was trained for;
            other plans run with an `UntrainedPlanWarning`.
        device: where it runs; CUDA if there is one.
        dtype: of the network; as it is unless given. x itself is float32 (float64 for a float64 network).
        batch_invariant: run every batch padded to `max_batch` U-Net rows, so that a sample's bits do not depend on who
            shares its batch. Costs the padding.
        max_batch: U-Net rows in one call, at most; a larger request runs in several batches.
        runner: "eager" calls the loop, "graph" replays CUDA graphs of it, "auto" takes graphs on CUDA. Or a `Runner`.
        name: of the model, for the record.
        decoder: what makes images [B, C', H', W'] in [-1, 1] of the final x [B, C, H, W], for a latent model. Any
            module; it is called in its own dtype, as a part of the run.

    An engine may be shared by threads: their requests run one after another.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        schedule: Schedule,
        shape: Sequence[int],
        prediction: str = "eps",
        labels: LabelSpec | Mapping[str, object] | None = None,
        plan: Mapping[str, Any] | None = None,
        guidance: GuidanceInput | Mapping[str, Any] | None = None,
        trained: Trained | Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_invariant: bool = False,
        max_batch: int = 16,
        runner: str | Runner = "auto",
        name: str = "",
        decoder: nn.Module | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ArgumentError("module", type(module).__name__, "a torch.nn.Module")
        if len(shape) != 3 or any(not isinstance(extent, int) or extent < 1 for extent in shape):
            raise ArgumentError("shape", tuple(shape), "three positive integers (channels, height, width)")
        if not isinstance(max_batch, int) or max_batch < 1:
            raise ArgumentError("max_batch", max_batch, "a positive integer")
        self.device = _device(device)
        self.module = module.to(device=self.device, dtype=dtype).eval()
        self.dtype = parameter_dtype(self.module)
        self.schedule, self.prediction, self.name = schedule, prediction, name
        self.shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])
        self.labels = labels_from_config(labels) if isinstance(labels, Mapping) else labels
        self.defaults: dict[str, Any] = {"sampler": "ddim", "steps": 4, **(plan or {})}
        self.guidance, self.trained = guidance_from_config(guidance), trained_from_config(trained)
        if self.guidance is not None and "guidance_scale" in self.defaults:
            raise ArgumentError("plan", dict(plan or {}), "no guidance_scale: the default of `guidance` says it")
        if self.trained is not None and not self.trained.lists(self.defaults["sampler"], self.defaults["steps"]):
            raise ArgumentError("trained", str(self.trained), "what lists the default plan, which is another")
        self.batch_invariant, self.max_batch = batch_invariant, max_batch
        self._runner = runner_for(runner, self.device)
        self._decoder = Decoder.of(decoder, self.shape, self.device)
        self._seen = manifest.Seen()
        self._label_argument = label_argument_of(self.module)
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        steps: int | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        allow_pickle: bool = False,
        **options: Any,
    ) -> "Engine":
        """An engine for a model folder: ours (`fewstep.json`), or a diffusers unconditional pipeline or UNet2DModel.

        Args:
            folder: the model folder; or "digits", a model in the box with students for 1, 2, 4 and 8 steps.
            steps: model calls that will be asked for, by which a student in the box is picked; 4 unless given.
            device, dtype: as for `Engine`.
            allow_pickle: also read weights stored as pickles; they are refused otherwise.
            options: further arguments of `Engine`.

        Raises:
            ModelError: a file that is missing, damaged, or not what its config says.
        """
        from fewstep.models.bundled import model_folder
        from fewstep.models.load import load_model

        unet, spec = load_model(model_folder(folder, steps), dtype=dtype or torch.float32, allow_pickle=allow_pickle)
        return cls(
            unet,
            schedule=from_config(spec.schedule),
            shape=spec.shape,
            prediction=spec.prediction,
            labels=labels_from_config(spec.labels),
            plan=spec.plan,
            guidance=spec.guidance,
            trained=spec.trained,
            device=device,
            name=spec.name,
            **options,
        )

    def plan(
        self,
        steps: int | None = None,
        sampler: str | None = None,
        *,
        guidance_scale: float | Sequence[float] | None = None,
        guidance_rescale: float = 0.0,
        strength: float = 1.0,
        **options: Any,
    ) -> Plan:
        """The plan that `sample` runs: the model's own, with what is given here in its place.

        A model that takes the guidance scale as an input has plans whose own w is 1; the scale is only checked here,
        and for `sample` to hand over. `UntrainedPlanWarning` where a distilled model was not trained for the plan.

        Args:
            steps: model calls.
            sampler: a name in `fewstep.samplers.SAMPLERS`.
            guidance_scale: w in uncond + w (cond - uncond); one number, or one per row. The model's own if it names
                one, else 1.
            guidance_rescale: phi of Lin et al. 2023, 0 to 1.
            strength: the share of the noise range that is run; for an image start.
            options: further options of the sampler, such as eta, clip or spacing.

        Raises:
            ArgumentError: naming the argument and what is allowed.
        """
        planner = self._planner
        plan = planner.plan(steps, sampler, guidance_scale, guidance_rescale, strength, options)
        planner.warn([plan], own_levels=strength == 1 and not options, stacklevel=2)
        return plan

    def sample(
        self,
        n: int | None = None,
        *,
        labels: Sequence[float] | Tensor | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        guidance_rescale: float = 0.0,
        seeds: int | Sequence[int] | None = None,
        plan: Plan | Sequence[Plan] | None = None,
        image: Any = None,
        strength: float | None = None,
        mask: Any = None,
        renoise: str = "initial",
        conditioning: Mapping[str, Tensor] | None = None,
        negative_conditioning: Mapping[str, Tensor] | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        callback: Callback | None = None,
        resume: Sequence[State] | None = None,
        output: str = "float",
    ) -> Samples:
        """Draw samples.

        Args:
            n: how many; as many as there are labels, seeds or plans unless given.
            labels: one per sample, for a model that takes them.
            steps, sampler, guidance_scale, guidance_rescale: as for `Engine.plan`. A model that takes the guidance
                scale as an input takes one number in its range.
            seeds: one per sample, or an integer s for s, s + 1, ...; drawn at random unless given.
            plan: a plan instead of steps and sampler, or one per sample.
            image: start from it at `strength`; with `mask`, the known image. Floats in [-1, 1], uint8 arrays, PIL.
            strength: above 0 to 1: how much of the noise range is run. The number of model calls stays `steps`.
            mask: [H, W] or [B, 1, H, W], 1 (white) where the sample is generated, 0 where `image` is kept.
            renoise: the noise on the kept region: "initial", the run's own, or "fresh" at each row (RePaint).
            conditioning, negative_conditioning: further arguments of the module, each tensor [B, ...]; the negative
                ones take the condition's place in the unconditional half. Where the guidance scale is an input,
                {"guidance": [B]} gives each sample its own, and wins.
            noise: the initial noise [B, C, H, W], or with each row's noise [N + 1, B, C, H, W], instead of the seeds'.
            generator: a torch.Generator, or one per sample, to draw the noise as diffusers does.
            callback: called after each step with a `Step`; False stops the run.
            resume: states kept by `Step.state`, one per sample, to go on from.
            output: "float", or "uint8" for the bytes of `Samples.numpy`, made on the device as the end of the run.

        Returns:
            Samples: the images [B, C, H, W] in [-1, 1], or uint8 [B, H, W, C], and what made them.

        Raises:
            ArgumentError: naming the argument, its value and what is allowed.

        Warns:
            UntrainedPlanWarning: a distilled model was not trained for the plan.
        """
        listed = {
            "labels": labels,
            "seeds": seeds,
            "plan": None if isinstance(plan, Plan) else plan,
            "resume": resume,
        }
        count = sample_count(n, **listed)
        if renoise not in ("initial", "fresh"):
            raise ArgumentError("renoise", renoise, "initial or fresh")
        noted = conditioning is None and negative_conditioning is None
        planner = self._planner
        plans = planner.plans(count, plan, steps, sampler, guidance_scale, guidance_rescale, strength, renoise)
        scales: list[float] | None = None
        if self.guidance is not None:
            w = self.guidance.scale(guidance_scale, guidance_rescale)
            conditioning, scales = self.guidance.condition(w, conditioning, count)
        request = build_request(
            plans=plans,
            seeds=resolve_seeds(seeds, count),
            shape=self.shape,
            labels=self.labels,
            label_values=labels,
            conditioning=conditioning,
            negative=negative_conditioning,
            image=image,
            strength=strength,
            mask=mask,
            noise=noise,
            generator=generator,
            resume=resume,
            explicit_plan=plan is not None,
        )
        planner.warn(plans, own_levels=plan is None and strength in (None, 1), stacklevel=2)
        cancelled: set[int] = set()
        ending = self._decoder.output(output)
        with self._lock:
            started = time.perf_counter()
            try:
                with torch.no_grad():
                    images, calls = self._run(request, callback, cancelled, ending, noted)
            finally:
                if self.device.type == "cuda":  # the stream alone: another thread may be capturing on the device
                    torch.cuda.current_stream(self.device).synchronize()
            seconds = time.perf_counter() - started
        given_labels = request.conditioning.get("labels") if labels is not None else None
        return Samples(
            images=images.values,
            seeds=list(request.seeds),
            plan=request.plans[0],
            labels=None if given_labels is None else given_labels.tolist(),
            model_calls=calls,
            seconds=seconds,
            cancelled=[sample in cancelled for sample in range(count)],
            finite=() if images.finite is None else images.finite.tolist(),
            parameters=self._parameters(strength, renoise if mask is not None else None, noise, generator),
            guidance_scales=scales,
        )

    def _parameters(
        self, strength: float | None, renoise: str | None, noise: object, generator: object
    ) -> dict[str, object]:
        """What made the samples beside their plan, seeds and labels."""
        source = "tensor" if noise is not None else "generator" if generator is not None else None
        known = {"model": self.name, "strength": strength, "renoise": renoise, "noise": source}
        return {name: value for name, value in known.items() if value is not None}

    def warm_up(self, requests: str | os.PathLike[str] | Sequence[Mapping[str, Any]]) -> None:
        """Sample once per kind of request, so that the first real one finds its graph captured and its memory there.

        Args:
            requests: arguments of `sample`, one mapping per kind: {"n": 4, "steps": 4, "guidance_scale": 3.0}. Labels
                need not be given; True stands for any callback, mask or noise. Or a file that `manifest` wrote. Where
                the graphs' budget does not hold them all, the first ones are kept.

        Raises:
            ArgumentError: as `sample` does, naming the entry.
            ModelError: a file that is no manifest, naming the entry and the field.
        """
        with self._runner.warming(), self._seen.paused():
            for name, request in reversed(manifest.named(requests)):
                try:
                    self.sample(**manifest.sample_arguments(request, self.shape, self.labels))
                except ArgumentError as error:
                    raise ArgumentError(f"{name}: {error.argument}", error.value, error.allowed) from error

    def manifest(self, path: str | os.PathLike[str] | None = None) -> list[dict[str, Any]]:
        """The kinds of request served so far, most used first, for `warm_up`; also written to `path` if given, as JSON.

        One entry per graph, such as {"n": 4, "steps": 4, "sampler": "ddim", "guidance_scale": 3.0}. Not listed:
        warm-ups, and what cannot be said so, which is requests with conditioning, with unlike plans, or resumed.

        Raises:
            OutputError: naming the path and the reason.
        """
        with self._lock:
            requests = self._seen.requests(self.plan)
        if path is not None:
            manifest.write(path, requests)
        return requests

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of a request that names none."""
        return float(self.defaults.get("guidance_scale", 1.0)) if self.guidance is None else self.guidance.default

    def stats(self) -> dict[str, Any]:
        """What the runner holds and has done: graphs, bytes, hits, captures, replays."""
        return self._runner.stats()

    @property
    def _planner(self) -> Planner:
        return Planner(self.schedule, self.prediction, self.defaults, self.guidance, self.trained, self.name)

    def _run(
        self, request: Request, callback: Callback | None, cancelled: set[int], output: Output | None, noted: bool
    ) -> tuple[Images, int]:
        z = starting_noise(request, self.shape, self.device)
        watched = callback is not None
        parts, calls = [], 0
        for samples in split(request, self.max_batch):
            if len(cancelled) == len(request):  # a callback has stopped the run
                parts.append(self._decoder.images(z[list(samples)], output))
                continue
            batch = self._assemble(request, samples, z, watched, output)
            denoiser = self._denoiser(batch.signature)
            run = self._runner.prepare(denoiser, self._decoder, batch.signature, batch.steps, watched)
            batch.fill(run.buffers)
            for i in run.steps():
                calls += 1
                if callback is not None and callback(Step(run.buffers, i, batch.steps, samples, cancelled)) is False:
                    unfinished = samples if i < batch.steps - 1 else ()
                    cancelled.update(unfinished, range(samples[-1] + 1, len(request)))
                    break
            run.decode()
            if noted:
                self._seen.note(batch, watched, noise=request.noise is not None)
            parts.append(taken(run.buffers, len(samples)))
        return Images.cat(parts), calls

    def _assemble(
        self, request: Request, samples: tuple[int, ...], z: Tensor, watched: bool, output: Output | None
    ) -> Batch:
        return assemble(
            request,
            samples,
            z,
            shape=self.shape,
            dtype=self.dtype,
            device=self.device,
            watched=watched,
            padded_rows=self.max_batch if self.batch_invariant else None,
            output=output,
        )

    def _denoiser(self, signature: Signature) -> ModuleDenoiser:
        channels = signature.shape[0]
        allowed = (2 * channels,) if signature.learned_variance else (channels, 2 * channels)
        return ModuleDenoiser(self.module, self._label_argument, allowed)


def _device(device: str | torch.device | None) -> torch.device:
    """The device asked for, checked to be there; CUDA if there is one where none is asked for."""
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=chosen).device
    except (RuntimeError, AssertionError):
        available = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise ArgumentError("device", str(device), ", ".join(["cpu", *available])) from None

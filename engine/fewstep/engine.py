"""The engine: a denoiser, its schedule and its default plan, ready to sample."""

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.buffers import Signature, Slot, State, StaticBuffers
from fewstep.callbacks import Callback, Step
from fewstep.denoiser import ModuleDenoiser, label_argument_of, parameter_dtype
from fewstep.errors import ArgumentError
from fewstep.guidance import UNetRows, assign_rows, condition_rows, halves_of
from fewstep.labels import LabelSpec, labels_from_config
from fewstep.plan import Plan
from fewstep.request import Request, build_request, resolve_seeds, sample_count, starting_noise
from fewstep.results import Samples
from fewstep.runners import EagerRunner, Runner
from fewstep.samplers import make_plan
from fewstep.schedules import Schedule, from_config
from fewstep.start import starting_x


class Engine:
    """Samples from a denoiser.

    Args:
        module: the network, called as module(x_in [R, C, H, W], t [R], labels=...). Ours, diffusers', or any other.
        schedule: the schedule it was trained on.
        shape: (C, H, W) of one sample.
        prediction: what it predicts: "eps", "x_0", "v", "flow" or "score".
        labels: None, `ClassLabels`, `ContinuousLabels`, or a dict like {"kind": "classes", "count": 10, "null": 10}.
        plan: the defaults of `Engine.plan`: {"sampler": "ddim", "steps": 4, ...} with options of that sampler.
        device: where it runs; CUDA if there is one.
        dtype: of the network; as it is unless given. x itself is float32 (float64 for a float64 network).
        batch_invariant: run every batch padded to `max_batch` U-Net rows, so that a sample's bits do not depend on who
            shares its batch. Costs the padding.
        max_batch: U-Net rows in one call, at most; a larger request runs in several batches.
        name: of the model, for the record.

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
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_invariant: bool = False,
        max_batch: int = 16,
        name: str = "",
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ArgumentError("module", type(module).__name__, "a torch.nn.Module")
        if len(shape) != 3 or any(not isinstance(extent, int) or extent < 1 for extent in shape):
            raise ArgumentError("shape", tuple(shape), "three positive integers (channels, height, width)")
        if not isinstance(max_batch, int) or max_batch < 1:
            raise ArgumentError("max_batch", max_batch, "a positive integer")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.module = module.to(device=self.device, dtype=dtype).eval()
        self.dtype = parameter_dtype(self.module)
        self.schedule, self.prediction, self.name = schedule, prediction, name
        self.shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])
        self.labels = labels_from_config(labels) if isinstance(labels, Mapping) else labels
        self.defaults: dict[str, Any] = {"sampler": "ddim", "steps": 4} | dict(plan or {})
        self.batch_invariant, self.max_batch = batch_invariant, max_batch
        self._runner: Runner = EagerRunner()
        self._label_argument = label_argument_of(self.module)
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        allow_pickle: bool = False,
        **options: Any,
    ) -> "Engine":
        """An engine for a model folder: ours (`fewstep.json`), or a diffusers unconditional pipeline or UNet2DModel.

        Args:
            folder: the model folder.
            device, dtype: as for `Engine`.
            allow_pickle: also read weights stored as pickles; they are refused otherwise.
            options: further arguments of `Engine`.

        Raises:
            ModelError: a file that is missing, damaged, or not what its config says.
        """
        from fewstep.models.load import load_model

        unet, spec = load_model(Path(folder), device="cpu", dtype=dtype or torch.float32, allow_pickle=allow_pickle)
        return cls(
            unet,
            schedule=from_config(spec.schedule),
            shape=spec.shape,
            prediction=spec.prediction,
            labels=labels_from_config(spec.labels),
            plan=spec.plan,
            device=device,
            name=spec.name,
            **options,
        )

    def plan(
        self,
        steps: int | None = None,
        sampler: str | None = None,
        *,
        guidance_scale: float | Sequence[float] = 1.0,
        guidance_rescale: float = 0.0,
        strength: float = 1.0,
        **options: Any,
    ) -> Plan:
        """The plan that `sample` runs: the model's own, with what is given here in its place.

        Args:
            steps: model calls.
            sampler: a name in `fewstep.samplers.SAMPLERS`.
            guidance_scale: w in uncond + w (cond - uncond); one number, or one per row.
            guidance_rescale: phi of Lin et al. 2023, 0 to 1.
            strength: the share of the noise range that is run; for an image start.
            options: further options of the sampler, such as eta, clip or spacing.

        Raises:
            ArgumentError: naming the argument and what is allowed.
        """
        chosen = sampler or self.defaults["sampler"]
        defaults = dict(self.defaults) if chosen == self.defaults["sampler"] else {"steps": self.defaults["steps"]}
        defaults |= options
        defaults.pop("sampler", None)
        wanted = defaults.pop("steps") if steps is None else steps
        defaults.pop("steps", None)
        plan = make_plan(chosen, self.schedule, wanted, prediction=self.prediction, strength=strength, **defaults)
        return plan.with_guidance(guidance_scale, rescale=guidance_rescale)

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
    ) -> Samples:
        """Draw samples.

        Args:
            n: how many; as many as there are labels, seeds or plans unless given.
            labels: one per sample, for a model that takes them.
            steps, sampler, guidance_scale, guidance_rescale: as for `Engine.plan`.
            seeds: one per sample, or an integer s for s, s + 1, ...; drawn at random unless given.
            plan: a plan instead of steps and sampler, or one per sample.
            image: start from it at `strength`; with `mask`, the known image. Floats in [-1, 1], uint8 arrays, PIL.
            strength: above 0 to 1: how much of the noise range is run. The number of model calls stays `steps`.
            mask: [H, W] or [B, 1, H, W], 1 (white) where the sample is generated, 0 where `image` is kept.
            renoise: the noise on the kept region: "initial", the run's own, or "fresh" at each row (RePaint).
            conditioning, negative_conditioning: further arguments of the module, each tensor [B, ...]; the negative
                ones take the condition's place in the unconditional half.
            noise: the initial noise [B, C, H, W], or with each row's noise [N + 1, B, C, H, W], instead of the seeds'.
            generator: a torch.Generator, or one per sample, to draw the noise as diffusers does.
            callback: called after each step with a `Step`; False stops the run.
            resume: states kept by `Step.state`, one per sample, to go on from.

        Returns:
            Samples: the images [B, C, H, W] in [-1, 1] and what made them.

        Raises:
            ArgumentError: naming the argument, its value and what is allowed.
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
        request = build_request(
            plans=self._plans(count, plan, steps, sampler, guidance_scale, guidance_rescale, strength, renoise),
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
        cancelled: set[int] = set()
        with self._lock:
            started = time.perf_counter()
            images, calls = self._run(request, callback, cancelled)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds = time.perf_counter() - started
        given_labels = request.conditioning.get("labels") if labels is not None else None
        return Samples(
            images=images,
            seeds=list(request.seeds),
            plan=request.plans[0],
            labels=None if given_labels is None else given_labels.tolist(),
            model_calls=calls,
            seconds=seconds,
            cancelled=[sample in cancelled for sample in range(count)],
            parameters={"model": self.name} | ({} if strength is None else {"strength": strength}),
        )

    def _plans(
        self,
        count: int,
        plan: Plan | Sequence[Plan] | None,
        steps: int | None,
        sampler: str | None,
        guidance_scale: float | Sequence[float] | None,
        guidance_rescale: float,
        strength: float | None,
        renoise: str,
    ) -> list[Plan]:
        if plan is None:
            built = self.plan(
                steps,
                sampler,
                guidance_scale=1.0 if guidance_scale is None else guidance_scale,
                guidance_rescale=guidance_rescale,
                strength=1.0 if strength is None else strength,
            )
            plans = [built] * count
        else:
            for name, value in {"steps": steps, "sampler": sampler}.items():
                if value is not None:
                    raise ArgumentError(name, value, "nothing beside a plan, which says it already")
            plans = [plan] * count if isinstance(plan, Plan) else list(plan)
            if guidance_scale is not None:
                plans = [each.with_guidance(guidance_scale, rescale=guidance_rescale) for each in plans]
        return [each.with_known(fresh=True) for each in plans] if renoise == "fresh" else plans

    def _run(self, request: Request, callback: Callback | None, cancelled: set[int]) -> tuple[Tensor, int]:
        z = starting_noise(request, self.shape, self.device)
        parts, calls = [], 0
        for samples in self._batches(request):
            if len(cancelled) == len(request):  # a callback has stopped the run
                parts.append(z[samples].to(torch.float32))
                continue
            buffers = self._fill(request, samples, z, preview=callback is not None)
            total = max(len(request.plans[sample]) - request.first_rows[sample] for sample in samples)
            for i in self._runner.run(self._denoiser(buffers.signature), buffers, total):
                calls += 1
                if callback is not None and callback(Step(buffers, i, total, samples, cancelled)) is False:
                    unfinished = samples if i < total - 1 else []
                    cancelled.update(unfinished, range(samples[-1] + 1, len(request)))
                    break
            parts.append(buffers.x[: len(samples)].to(torch.float32, copy=True))
        return torch.cat(parts), calls

    def _denoiser(self, signature: Signature) -> ModuleDenoiser:
        channels = signature.shape[0]
        allowed = (2 * channels,) if signature.learned_variance else (channels, 2 * channels)
        return ModuleDenoiser(self.module, self._label_argument, allowed)

    def _batches(self, request: Request) -> list[list[int]]:
        """Samples in order, cut where a batch would own more than `max_batch` U-Net rows."""
        batches: list[list[int]] = []
        used = self.max_batch + 1
        for sample, plan in enumerate(request.plans):
            owned = 2 if halves_of(plan) == "both" else 1
            if owned > self.max_batch:
                raise ArgumentError(
                    "max_batch", self.max_batch, "at least 2, since a guided sample owns two U-Net rows"
                )
            if used + owned > self.max_batch:
                batches.append([])
                used = 0
            batches[-1].append(sample)
            used += owned
        return batches

    def _fill(self, request: Request, samples: list[int], z: Tensor, preview: bool) -> StaticBuffers:
        plans = [request.plans[sample] for sample in samples]
        rows = assign_rows(plans)
        total = self.max_batch + 1 if self.batch_invariant else len(rows)  # the last row is the idle slots' scratch
        place = torch.tensor(samples)
        conditioning = condition_rows(
            rows,
            total,
            {name: tensor[place.to(tensor.device)] for name, tensor in request.conditioning.items()},
            {name: tensor[place.to(tensor.device)] for name, tensor in request.negative.items()},
        )
        signature = Signature(
            samples=self.max_batch if self.batch_invariant else len(samples),
            rows=total,
            shape=self.shape,
            steps=max(len(plan) for plan in plans),
            dtype=self.dtype,
            device=self.device,
            history=max(plan.history for plan in plans),
            learned_variance=any(plan.learned_variance for plan in plans),
            stochastic=any(plan.stochastic for plan in plans),
            statistics=any(plan.statistics for plan in plans),
            preview=preview,
            given_noise=request.noise is not None,
            known=request.mask is not None,
            conditioning=tuple((name, tuple(t.shape[1:]), t.dtype) for name, t in sorted(conditioning.items())),
        )
        buffers = StaticBuffers.allocate(signature)
        buffers.condition(conditioning)
        buffers.fill([self._slot(request, rows, slot, sample, z[sample]) for slot, sample in enumerate(samples)])
        return buffers

    def _slot(self, request: Request, rows: UNetRows, slot: int, sample: int, z: Tensor) -> Slot:
        return Slot(
            plan=request.plans[sample],
            seed=request.seeds[sample],
            state=self._state(request, sample, z),
            cond_row=rows.cond_row[slot],
            uncond_row=rows.uncond_row[slot],
            noise=None if request.noise is None else request.noise[:, sample],
            known=None if request.mask is None or request.image is None else request.image[sample],
            mask=None if request.mask is None else request.mask[sample],
        )

    def _state(self, request: Request, sample: int, z: Tensor) -> State:
        if request.resume:
            return request.resume[sample]
        first = request.first_rows[sample]
        image = (
            request.image[sample].to(self.device) if request.image is not None and request.starts_from_image else None
        )
        return State(starting_x(request.plans[sample], first, z, image), None, first)

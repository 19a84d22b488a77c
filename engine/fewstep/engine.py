"""The engine: a model and how it runs, ready to sample."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fewstep.adapting import Adapting
from fewstep.bounds import Bounds
from fewstep.checks import flag, integer, only, whole
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SamplerName
from fewstep.diffusion.trained import MAX_STEPS
from fewstep.errors import ArgumentError, PlanWarning
from fewstep.models.model import FIELDS, Model
from fewstep.recording import record
from fewstep.request import manifest
from fewstep.request.asked import MAX_SAMPLES, SAID, Asked
from fewstep.request.conditions import Labels
from fewstep.request.conditions.words import NAMES
from fewstep.request.noise import Noise
from fewstep.request.request import Request, build_request, folded
from fewstep.request.seen import Seen
from fewstep.request.start import Resume, Start
from fewstep.results import Samples
from fewstep.run.backends import BackendName
from fewstep.run.backends.choose import network_for
from fewstep.run.buffers import Output, Signature, state_dtype, table_capacity
from fewstep.run.callbacks import Callback, Following, check_callback
from fewstep.run.decode import Decoder, Images
from fewstep.run.denoiser import Denoiser, ModuleDenoiser, parameter_dtype
from fewstep.run.encode import Encoder
from fewstep.run.features import Prepared, prepare, prepared_signature, signature_of
from fewstep.run.inputs import Inputs
from fewstep.run.lanes import batches, calls_in, lanes_of
from fewstep.run.modules import own_module
from fewstep.run.runner_choice import RunnerName, chosen_device, runner_for
from fewstep.run.runners import Runner
from fewstep.run.sample import Sample
from fewstep.run.session import Session
from fewstep.run.weights_lock import WeightsLock
from fewstep.warmed import Warmed
from fewstep.warming import note, session_key
from fewstep_kernels import MAX_HISTORY

Ending = Literal["float", "uint8"]
# Arguments of `Engine` that are not a model's.
WAYS = ("runner", "max_batch", "batch_invariant", "backend", "threads", "once")


class Engine(Adapting, Warmed):
    """Samples from a model.

    Args:
        model: the network and what it was trained for. It is not changed: where device and dtype agree, the engine runs
            a view of the network that shares its tensors, else a copy.
        device: where it runs; CUDA if there is one.
        dtype: of the network; as it is unless given. x and the images are float32, or float64 for a float64 network.
        runner: "eager" calls the loop, "graph" replays CUDA graphs of it, "auto" takes graphs on CUDA. Or a `Runner`.
        max_batch: lanes in one call, at most; a larger request runs in several batches.
        batch_invariant: run every batch padded to `max_batch` lanes, so that a sample's bits do not depend on who
            shares its batch. Costs the padding.
        backend: what executes the network, a name in `BACKENDS`. "auto" is what FEWSTEP_BACKEND says, or else on a CPU
            OpenVINO where it is installed and measured to be faster, and torch in all other cases.
        threads: of a backend beside torch's, which takes those of `torch.set_num_threads`; as many unless given.
        once: the first request is all that comes, as of a command: "auto" makes the network ready only where that
            request saves more time than it costs.

    An engine may be shared by threads: their requests run one after another, and its weights change between them.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        runner: RunnerName | Runner = "auto",
        max_batch: int = 16,
        batch_invariant: bool = False,
        backend: BackendName = "auto",
        threads: int | None = None,
        once: bool = False,
    ) -> None:
        if not isinstance(model, Model):
            allowed = "a fewstep.Model: Engine(Model(unet, schedule=fewstep.schedules.linear(1000), shape=(3, 32, 32)))"
            raise ArgumentError("model", type(model).__name__, allowed)
        lanes = whole(max_batch)
        if lanes is None or lanes < 1:
            raise ArgumentError("max_batch", max_batch, "a positive integer")
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ArgumentError("dtype", dtype, "a floating-point torch.dtype, such as torch.bfloat16")
        self.model, self.max_batch, self.batch_invariant = model, lanes, flag("batch_invariant", batch_invariant)
        self.device = chosen_device(device)
        self.module = own_module(model.module, self.device, dtype)
        self.dtype = parameter_dtype(self.module) if dtype is None else dtype
        how = (self.device, self.dtype, self.batch_invariant)
        self._network = network_for(self.module, backend, threads, *how)
        self._once = flag("once", once)
        self._state_dtype = state_dtype(self.dtype)
        self._planner = model.planner()
        self._inputs = Inputs.of(self.module)
        self._runner = runner_for(runner, self.device)
        self._shape = folded(model.shape)
        self._bounds = Bounds(self.module, self._shape, self.dtype, self.device, lanes, self.batch_invariant)
        self._decoder = Decoder.of(model.decoder, self._shape, self.device, self._state_dtype)
        self._encoder = Encoder.of(model.encoder, self._decoder.shape, self._shape, self.device, self._state_dtype)
        self._seen = Seen()
        self._lock = WeightsLock()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        steps: int | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        allow_pickle: bool = False,
        variant: str | None = None,
        download: bool = False,
        **options: Any,
    ) -> "Engine":
        """An engine for a model folder, ours (`fewstep.json`) or diffusers', or for a single file of Stable Diffusion.

        Args:
            folder: the model folder or file; "digits", a model in the box with students for 1, 2, 4 and 8 steps; or a
                name on the Hugging Face hub, such as "stabilityai/sd-turbo".
            steps: model calls that will be asked for, by which a student in the box is picked; 4 unless given.
            device, dtype: as for `Engine`.
            allow_pickle: also read weights stored as pickles; they are refused otherwise.
            variant, download: as for `Model.from_pretrained`; nothing is downloaded unless it is asked for.
            options: further arguments of `Engine`, and attributes of `Model` to have in place of the folder's, such as
                schedule=, prediction=, defaults= and conditions=; see `Model.from_pretrained`.

        Raises:
            ModelError: a file that is missing, damaged, or not what its config says.
        """
        only("from_pretrained", options, (*FIELDS, *WAYS))
        own = {name: options.pop(name) for name in FIELDS if name in options}
        weights = torch.float32 if dtype is None else dtype
        own |= {"allow_pickle": allow_pickle, "variant": variant, "download": download}
        model = Model.from_pretrained(folder, steps, dtype=weights, **own)
        return cls(model, device=device, **options)

    @classmethod
    def from_pipeline(
        cls,
        pipe: Any,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        height: int | None = None,
        width: int | None = None,
        opaque: bool = False,
        **options: Any,
    ) -> "Engine":
        """An engine that runs the whole loop of a pipeline of diffusers: text to image, or unconditional.

            engine = fewstep.Engine.from_pipeline(pipe)
            engine.sample(prompt="a red fox", steps=4, seeds=0).save("out.png")

        U-Net and autoencoder run over the weights of the pipeline, which goes on working; its scheduler is a plan.
        Tokenizers and text encoders stay the pipeline's. A safety checker and a watermark are not run.

        Args:
            pipe: a pipeline; an error lists the classes.
            device, dtype: as for `Engine`; where and what the pipeline's U-Net is unless given.
            height, width: of the images in pixels; what the U-Net was trained for unless given.
            opaque: run diffusers' code of the U-Net in place of ours.
            options: further arguments of `Engine`, and attributes of `Model` to have in place of what the pipeline
                says, such as defaults={"sampler": "ddim", "steps": 4}, or decoder=None for a run that ends in latents.

        Raises:
            ArgumentError: another pipeline, by its name, or one with parts that fewstep does not run.
            ModelError: a scheduler or a U-Net that fewstep does not read, by its field.
        """
        from fewstep.pipelines.from_pipeline import model_from_pipeline

        own = {name: options.pop(name) for name in WAYS if name in options}
        model = model_from_pipeline(pipe, height=height, width=width, opaque=opaque, **options)
        return cls(model, device=pipe.unet.device if device is None else device, dtype=dtype, **own)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that a run ends in: of a latent model what its decoder makes of a sample."""
        return self._decoder.shape

    @property
    def backend(self) -> str:
        """What executed the last call of the network, a name in `fewstep.BACKENDS`; "torch" before there was one."""
        return self._network.used

    def __repr__(self) -> str:
        name, precision = self.model.name or type(self.module).__name__, str(self.dtype).removeprefix("torch.")
        plan = f"{self.model.defaults['sampler']}, {self.model.defaults['steps']} steps"
        place = f"{precision} on {self.device}" + f" by {self.backend}" * (self.backend != "torch")
        return f"Engine({name!r}, shape {list(self.model.shape)}, {plan} by default, {place})"

    def plan(
        self,
        steps: int | None = None,
        sampler: SamplerName | str | None = None,
        *,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        strength: float = 1.0,
        preset: str | None = None,
        **options: Any,
    ) -> Plan:
        """The plan that `sample` runs: the model's own, with what is given here in its place.

        A model that takes the guidance scale as an input has plans whose own w is 1; the scale is only checked here,
        and for `sample` to hand over. `UntrainedPlanWarning` where a distilled model was not trained for the plan, and
        `WastedCallWarning` where a call of the network changes nothing.

        Args:
            steps: model calls.
            sampler: a name in `fewstep.samplers.SAMPLERS`.
            guidance_scale: w in uncond + w (cond - uncond); the model's own if it names one, else 1. For one scale per
                call, or an interval, `Plan.with_guidance`.
            guidance_rescale: phi of Lin et al. 2023, 0 to 1.
            strength: the share of the noise range that is run; for an image start.
            preset: a name in `fewstep.presets.PRESETS`, such as "lightning-4", whose settings are in place of the
                model's own; a sampler is not asked for beside it.
            options: further options of the sampler, such as eta, clip or spacing.

        Raises:
            ArgumentError: naming the argument and what is allowed.
        """
        plan = self._planner.plan(steps, sampler, guidance_scale, guidance_rescale, strength, options, preset, "preset")
        self._planner.warn([plan], own_levels=strength == 1 and not options, stacklevel=2)
        return plan

    def sample(
        self,
        n: int | None = None,
        *,
        labels: Labels | None = None,
        steps: int | Sequence[int] | None = None,
        sampler: SamplerName | str | Sequence[str] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        seeds: int | Sequence[int] | None = None,
        plan: Plan | str | Sequence[Plan] | Sequence[str] | None = None,
        start: Start | Resume | Sequence[Start | None] | None = None,
        noise: Noise | None = None,
        condition: Mapping[str, Tensor | tuple[Tensor, Tensor]] | None = None,
        callback: Callback | None = None,
        output: Ending = "float",
        **options: Any,
    ) -> Samples:
        """Draw samples. Where an argument is a sequence, it has one entry per sample.

        Args:
            n: how many; as many as there are labels, seeds, plans or other entries unless given.
            labels: one per sample, for a model that takes them: numbers, or names of classes.
            steps, sampler, guidance_scale: as for `Engine.plan`.
            seeds: one per sample, or an integer s for s, s + 1, ...; drawn at random unless given.
            plan: a plan instead of steps and sampler; or the name of a preset, such as "lightning-4" (see `plan`).
            start: `Image(x, strength)`, `Inpaint(x, mask)`, or `Resume(states)`, which says all else too.
            noise: instead of the seeds': the initial noise [B, C, H, W], or with each row's [N + 1, B, C, H, W]; a
                torch.Generator, which draws as diffusers does; or one tensor or generator per sample.
            condition: further arguments of the module by name, each a tensor [B, ...], or a pair of tensors: with the
                condition, and what stands for none in the unconditional half. Where samples are guided by two halves
                each has to be a pair; (x, x) is given to both. Floats go in the network's dtype.
            callback: called after each step with a `Step`; False stops the run.
            output: "float", or "uint8" for the bytes of `Samples.numpy`, made on the device as the end of the run.
            options: as for `Engine.plan`: guidance_rescale, and options of the sampler such as eta or clip. And
                log_prob=True for `Samples.log_prob` and `Step.log_prob`: how probable each step was. For a model of
                `Prompts`: prompt="a red fox", negative_prompt= and sizes=, one for all samples or a list with one for
                each; a prompt may also be an embedding, [tokens, width], or several, [B, tokens, width]. Of one with
                a ControlNet also control_image=, a picture as `Image` takes it, and control_scale=, 1 unless given.

        Returns:
            Samples: the images [B, C, H, W] in the dtype of x, or uint8 [B, H, W, C], and what made them.

        Raises:
            ArgumentError: naming the argument, its value and what is allowed.

        Warns:
            UntrainedPlanWarning: a distilled model was not trained for the plan.
            WastedCallWarning: a call of the network changes nothing.
            OvershootWarning: the steps are too long for the sampler, which would end in noise.
            NonFiniteWarning: of uint8 images some were not finite: `Samples.finite` says which. Floats show it.
        """
        wanted = flag("log_prob", options.pop("log_prob", False))
        words = {name: options.pop(name) for name in NAMES if name in options}
        asked = Asked(n, labels, steps, sampler, guidance_scale, seeds, plan, start, noise, condition, options, **words)
        check_callback(callback)
        with self._lock:  # from the prompts on: what they are read with may be changed between two requests
            request = self._request(asked)
            self._planner.warn(request.plans, own_levels=request.own_levels, stacklevel=2)
            ending = self.ending(output)
            self._bounds.check_samples(list(map(lanes_of, request.plans)), ending)
            started, made = time.perf_counter(), self._network.making
            run, parts = Following(len(request), callback), list(batches(request.plans, self.max_batch))
            self._network.expect(calls_in(request.plans, parts) if self._once else None)
            for places in parts:
                run.parts.append(self._part(asked, request, places, run, ending, wanted))
            if self.device.type == "cuda":  # the stream alone: another thread may be capturing on the device
                torch.cuda.current_stream(self.device).synchronize()
            seconds = time.perf_counter() - started
        samples = record(self.model, request, run, seconds, self._network.making - made)
        samples.warn_of_bytes(stacklevel=2)
        return samples

    def _part(
        self, asked: Asked, request: Request, places: Sequence[int], run: Following, ending: Output | None, wanted: bool
    ) -> Images:
        """The samples of a request that run together: a session of exactly their size."""
        if run.stopped:
            return self._decoder.missing(len(places), ending, self.device)
        samples, watched = self._tensors(request, places), run.callback is not None
        denoiser, signature, prepared = self.prepared(samples, ending, watched, wanted)
        steps = max(sample.calls for sample in samples)
        opened = partial(Session, self._runner, denoiser, self._decoder, signature)
        with opened(watched=watched, steps=steps, lock=self._lock) as session:
            session.admit(*samples, prepared=prepared)
            run.follow(session, places)
            images = session.images()
        run.backends += [self.backend] * len(places)
        note(self._seen, asked, signature, samples, watched)
        return images

    def session(
        self,
        slots: int,
        lanes: int | None = None,
        *,
        steps: int = 8,
        history: int = 0,
        features: Sequence[str] = ("stochastic",),
        output: Ending = "float",
        like: Sample | Sequence[Sample] = (),
    ) -> Session:
        """A session that samples come to and leave at any step: for a server. `samples` makes what it admits.

        Args:
            slots: samples at once.
            lanes: rows of the network's batch, one of them scratch; two for each slot and that one unless given.
            steps: the longest plan that fits.
            history: past values that a plan may read.
            features: what samples may need: "stochastic", "statistics" (rescaled guidance, dynamic thresholds), "known"
                (a mask), "given_noise", "learned_variance", "preview", "log_prob" (beside what `Session.take` returns).
            output: as for `sample`.
            like: one sample with the `condition` that those to come will have, where it is more than labels.

        Raises:
            ArgumentError: naming the argument and what is allowed.
        """
        slots = integer("slots", slots, 1, MAX_SAMPLES)
        size = {
            "slots": slots,
            "lanes": 2 * slots + 1 if lanes is None else integer("lanes", lanes, 2, 2 * MAX_SAMPLES + 1),
            "steps": integer("steps", steps, 1, MAX_STEPS),
            "history": integer("history", history, 0, MAX_HISTORY),
        }
        if isinstance(features, str) or not isinstance(features, Iterable):
            raise ArgumentError("features", features, f"a list of {', '.join(manifest.FEATURES)}")
        like = [like] if isinstance(like, Sample) else like
        if not isinstance(like, Sequence) or not all(isinstance(each, Sample) for each in like):
            raise ArgumentError("like", like, "samples as Engine.samples makes them")
        words = {**size, "features": list(features), "output": output}
        self._lock.let_change()
        denoiser, signature = self.open_signature(words, like)
        ways: dict[str, Any] = {"admits": True, "lock": self._lock, "strange": self._planner.strange}
        ways["narrows"] = not self.batch_invariant
        opened = Session(self._runner, denoiser, self._decoder, signature, **ways)
        if not like:
            self._seen.note(session_key(signature), lambda: {"session": words})
        return opened

    def open_signature(self, words: Mapping[str, Any], like: Sequence[Sample] = ()) -> tuple[Denoiser, Signature]:
        """The network and the signature of a session in the words of `session`, before it is opened."""
        only("features", words["features"], manifest.FEATURES)
        short = min(words["steps"], self.model.defaults["steps"])
        blank = self.model.conditions.blank(1)
        example = list(like) or self._tensors(self._request(Asked(1, steps=short, **blank)), [0])
        wanted: dict[str, Any] = {feature: feature in words["features"] for feature in manifest.FEATURES}
        size = {"slots": words["slots"], "lanes": words["lanes"], "second_time": self._inputs.second_time}
        signature = replace(
            signature_of(example, self.dtype, self.device, **size),
            steps=table_capacity(words["steps"]),
            history=words["history"],
            output=self._decoder.output(words.get("output", "float"), each=True),
            **wanted,
        )
        self._bounds.check_session(signature)
        denoiser = self._denoiser(signature.learned_variance)
        return denoiser, prepared_signature(signature, prepare(denoiser, example[0], signature))

    def samples(
        self, n: int | None = None, *, remarks: list[PlanWarning] | None = None, **arguments: Any
    ) -> list[Sample]:
        """What `sample` would run, for a `session` to admit: its arguments, but for `callback` and `output`.

        What there is to warn of is added to `remarks` where that is given, as it is by a server: whoever asked it reads
        no stderr, and the filters of `warnings` are one for all threads.
        """
        said = {name: arguments.pop(name) for name in SAID if name in arguments}
        request = self._request(Asked(n, **said, options=arguments))
        if remarks is None:
            self._planner.warn(request.plans, own_levels=request.own_levels, stacklevel=2)
        else:
            remarks += self._planner.remarks(request.plans, own_levels=request.own_levels)
        self._bounds.check_samples(list(map(lanes_of, request.plans)), None, together=True)
        with self._lock:
            return self._tensors(request, range(len(request)))

    def _request(self, asked: Asked) -> Request:
        model = self.model
        told = asked, self._planner, model.conditions, self._inputs, model.shape, self.dtype
        return build_request(*told, self._encoder)

    def _tensors(self, request: Request, places: Sequence[int]) -> list[Sample]:
        return request.samples(places, self._shape, self.device, self._state_dtype)

    def ending(self, output: Ending) -> Output | None:
        """What a run for an output ends in; None where that is x itself. ArgumentError for another word."""
        return self._decoder.output(output, each=self.batch_invariant)

    def prepared(
        self, samples: Sequence[Sample], ending: Output | None, watched: bool, log_prob: bool = False
    ) -> tuple[Denoiser, Signature, list[Prepared]]:
        """The network for some samples, the signature of a session of theirs, and what is prepared of each."""
        size: dict[str, Any] = {"slots": self.max_batch, "lanes": self.max_batch + 1} if self.batch_invariant else {}
        size |= {"watched": watched, "output": ending, "second_time": self._inputs.second_time, "log_prob": log_prob}
        signature = signature_of(samples, self.dtype, self.device, **size)
        denoiser = self._denoiser(signature.learned_variance)
        prepared = [prepare(denoiser, sample, signature) for sample in samples]
        return denoiser, prepared_signature(signature, prepared[0]), prepared

    def _denoiser(self, learned_variance: bool) -> Denoiser:
        channels = self.model.shape[0]
        allowed = (2 * channels,) if learned_variance else (channels, 2 * channels)
        sizes = () if self.model.shape == self._shape else self.model.shape[1:]
        index, second_time = self.model.time == "index", self._inputs.second_time
        return ModuleDenoiser(self.module, self._inputs.labels, allowed, sizes, index, second_time, self._network)

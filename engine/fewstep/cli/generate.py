"""`fewstep generate`: from a model folder to pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.cli import options
from fewstep.cli.machine import check_backend, check_device, dtype_of, set_threads
from fewstep.cli.pictures import read_mask, read_picture
from fewstep.cli.shared import emit, emit_fields, examples, progress
from fewstep.cli.words import UNLABELLED, Typed, check_kind, load_loras, meant
from fewstep.diffusion.presets import preset_named
from fewstep.errors import ArgumentError
from fewstep.opening import open_engine, reads_prompts, takes_picture
from fewstep.run.callbacks import counting

if TYPE_CHECKING:
    from fewstep.request.start import Image, Inpaint
    from fewstep.results import Samples

MAX_TOLD = 10  # labels in the summary
LONG = 0.1  # seconds that are worth a word
EXAMPLES = examples(
    "Ten digits of the model in the box, two model calls each, with seeds 0 to 9:",
    "  fewstep generate digits --labels 0:9:10 --steps 2 --seed 0 --columns 5 --out out/digits.png",
    "Three variations of one of them:",
    "  fewstep generate digits/teacher --labels 3 --n 3 --image out/digits-003.png --strength 0.6 --steps 20",
    "Two pictures of a text, by a pipeline that diffusers saved, in four steps, and with a LoRA at a weight of 0.8:",
    "  fewstep generate .models/sdxl-turbo --prompt 'a red fox' --n 2 --steps 4 --lora style.safetensors:0.8",
    "16 terrains from flat to rough, one model call each:",
    "  fewstep generate .models/terrain --labels 5:100:16 --columns 4 --colormap terrain --out out/terrain.png",
)


def generate(
    model: options.Model,
    prompt: options.Prompt = None,
    negative_prompt: options.NegativePrompt = None,
    control_image: options.ControlImage = None,
    control_scale: options.ControlScale = None,
    labels: options.Labels = None,
    n: options.Count = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    plan: options.Plan = None,
    guidance_scale: options.GuidanceScale = None,
    guidance_rescale: options.GuidanceRescale = 0.0,
    lora: options.Lora = None,
    image: options.Image = None,
    strength: options.Strength = None,
    mask: options.Mask = None,
    height: options.Height = None,
    width: options.Width = None,
    out: options.Out = Path("out.png"),
    columns: options.Columns = None,
    singles: options.Singles = True,
    colormap: options.Colormap = "gray",
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    allow_pickle: options.AllowPickle = False,
    variant: options.Variant = None,
    download: options.Download = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Make pictures with a model.

    Several samples become one sheet (out.png) and single pictures (out-000.png ...).
    Each carries its seed, label or prompt, sampler and steps; `fewstep info out-000.png` shows them.
    """
    from fewstep.results import check_channels

    _check_start(image, strength, mask)
    if plan is not None:
        preset_named("plan", plan)
    _check_output(out, columns, colormap)

    if download:
        from fewstep.models.download import fetch

        fetch(model, variant, allow_pickle, whole=True)
    typed = Typed(n, seed, seeds, labels, prompt, negative_prompt)
    check_kind(typed, reads_prompts(model, steps))
    _check_control(control_image, control_scale, takes_picture(model, steps))
    weights = dtype_of(dtype)
    set_threads(threads)
    check_device(device)
    check_backend(backend, device, weights)
    ways: dict[str, Any] = {"device": device, "backend": backend, "once": True}
    ways |= {"dtype": weights, "allow_pickle": allow_pickle, "variant": variant}
    size = {"height": height, "width": width}
    engine = open_engine(model, steps, sampler, plan, size, quiet or as_json, **ways)
    if out.suffix.lower() == ".png":
        check_channels(engine.image_shape[0], colormap)
    made = meant(typed, engine.model.conditions)
    load_loras(engine, lora or [])
    request = made.request | {"steps": steps, "sampler": sampler, "plan": plan}
    request |= {"guidance_scale": guidance_scale, "guidance_rescale": guidance_rescale}
    if image is not None:
        shape = engine.model.shape if engine.model.encoder is None else engine.image_shape
        request["start"] = _start(shape, image, strength, mask)
    if control_image is not None:
        picture = read_picture("control_image", control_image, engine.image_shape)
        request |= {"control_image": picture, "control_scale": control_scale}
    count = made.count
    with progress(f"{count} images" if count > 1 else "1 image", quiet=quiet or as_json) as advance:
        samples = engine.sample(**request, callback=advance and counting(advance, count))

    about: dict[str, object] = {"model": model, "image": image, "mask": mask, "strength": strength}
    about |= {} if control_image is None else {"control_image": control_image}
    about |= {name: value for name, value in size.items() if value is not None}
    about |= {"lora": "; ".join(lora)} if lora else {}
    about |= {"device": engine.device, "dtype": str(engine.dtype).removeprefix("torch."), "backend": _backends(samples)}
    record = about | ({"labels": UNLABELLED} if made.unlabelled else {})
    paths = samples.save(out, singles=singles, columns=columns, colormap=colormap, parameters=record)
    if as_json:
        emit(_report(samples, paths, about))
    else:
        emit_fields(str(paths[0]), _summary(samples, paths) | _told(made.chosen, engine.model.conditions.names))


def _check_start(image: Path | None, strength: float | None, mask: Path | None) -> None:
    """ArgumentError for what goes with an image, without one."""
    for name, value in {"mask": mask, "strength": strength}.items():
        if image is None and value is not None:
            raise ArgumentError(name, str(value) if name == "mask" else value, "only together with --image")


def _check_control(control_image: Path | None, control_scale: float | None, takes: bool) -> None:
    """ArgumentError for a picture of a model without ControlNet, and the other way round; asked before it is opened."""
    for name, value in {"control_image": control_image, "control_scale": control_scale}.items():
        if value is not None and not takes:
            raise ArgumentError(name, str(value), "nothing: this model has no ControlNet")
    if takes and control_image is None:
        raise ArgumentError("control_image", None, "a picture: this model has a ControlNet, which draws after one")


def _start(shape: tuple[int, ...], image: Path, strength: float | None, mask: Path | None) -> "Image | Inpaint":
    """Where the samples start: from an image, or around what a mask keeps of it."""
    from fewstep.request.start import Image, Inpaint

    picture = read_picture("image", image, shape)
    if mask is None:
        if strength is None:
            raise ArgumentError("strength", None, "a number above 0 and at most 1 says how far from the image to start")
        return Image(picture, strength)
    known = read_mask("mask", mask, shape, image)
    return Inpaint(picture, known) if strength is None else Inpaint(picture, known, strength)


def _check_output(out: Path, columns: int | None, colormap: str) -> None:
    """What would fail after the sampling fails before it."""
    from fewstep.colormaps import check_colormap
    from fewstep.files import check_writable
    from fewstep.results import check_suffix

    check_suffix(out, "out")
    if columns is not None and columns < 1:
        raise ArgumentError("columns", columns, "an integer from 1 up")
    check_colormap(colormap)
    check_writable(out)


def _report(samples: "Samples", paths: list[Path], about: dict[str, object]) -> dict[str, object]:
    """The --json answer."""
    from fewstep.results import label_text
    from fewstep.version import __version__

    singles = paths[1:] or (paths if len(samples) == 1 else [])
    images = []
    for index in range(len(samples)):
        label = None if samples.labels is None else samples.labels[index]
        label = label if label is None or isinstance(label, int) else float(label_text(label))
        path = singles[index] if singles else None
        name = {"name": samples.label_names[index]} if samples.label_names else {}
        images.append({"path": path, "seed": int(samples.seeds[index]), "label": label, **name, **samples.texts(index)})
    return {
        **about,
        "out": paths[0],
        "images": images,
        "shape": list(samples.images.shape[1:]),
        "sampler": samples.plans[0].sampler,
        "steps": len(samples.plans[0]),
        "guidance_scale": samples.guidance_scale_of(),
        "model_calls": samples.model_calls,
        "seconds": samples.seconds,
        "ready_seconds": samples.ready_seconds,
        "ms_per_image": 1000 * samples.seconds / len(samples),
        "fewstep": __version__,
    }


def _backends(samples: "Samples") -> str:
    """What executed the network: one name, unless its batches were executed by several."""
    each = [samples.parameters] if isinstance(samples.parameters, Mapping) else samples.parameters
    return ",".join(dict.fromkeys(str(parameters["backend"]) for parameters in each if parameters.get("backend")))


def _summary(samples: "Samples", paths: list[Path]) -> dict[str, object]:
    _, _, height, width = samples.images.shape
    steps, seeds = len(samples.plans[0]), [int(seed) for seed in samples.seeds]
    images = f"{len(samples)} of {width}x{height}"
    if len(paths) > 2:
        images += f", also {paths[1]} to {paths[-1].name}"
    counting = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    return {
        "images": images,
        "sampler": f"{samples.plans[0].sampler}, {steps} step{'s' * (steps > 1)}",
        "model calls": f"{samples.model_calls} by {_backends(samples)}",
        "time": f"{_digits(1000 * samples.seconds / len(samples))} ms an image, {_digits(samples.seconds)} s in all"
        + (f"; {_digits(ready)} s to make the network ready" if (ready := samples.ready_seconds) >= LONG else ""),
        "seeds": f"{seeds[0]} to {seeds[-1]}" if counting else ", ".join(map(str, seeds)),
    }


def _told(chosen: Sequence[float] | None, names: Sequence[str]) -> dict[str, object]:
    """The labels that nobody named."""
    if chosen is None:
        return {}
    first = ", ".join(names[int(label)] if names else f"{label:g}" for label in chosen[:MAX_TOLD])
    return {"labels": f"{first}{', ...' * (len(chosen) > MAX_TOLD)}: chosen, for want of --labels"}


def _digits(value: float) -> str:
    """Three significant digits, never an exponent for what a person reads as a plain number."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"

"""`fewstep info`: what is installed, what a model is, how a picture was made."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewstep.cli.cache import about_cache, in_short
from fewstep.cli.options import AllowPickle, AsJson, Download
from fewstep.cli.shared import Fitted, emit, emit_fields, examples
from fewstep.errors import ArgumentError, FewstepError

if TYPE_CHECKING:
    from fewstep.engine import Engine

EXTRAS = ("diffusers", "onnx", "matplotlib")
BACKENDS = {"torch": "torch", "openvino": "openvino"}  # and the packages that they are
EXAMPLES = examples(
    "Versions, devices, why each fallback was taken:",
    "  fewstep info",
    "Size, labels, schedule and default plan of a model, here of the one in the box:",
    "  fewstep info digits",
    "The parameters of a picture, and how to make it again:",
    "  fewstep info out-003.png",
    "Every sampler: its order, whether it draws noise, the calls it makes, what it looks back at:",
    "  fewstep info --samplers",
    "What families of distilled models are sampled with, by names for --plan:",
    "  fewstep info --presets",
    "Launches a step, beside those of diffusers:",
    "  fewstep info --cost",
    "  fewstep info sd15 --cost --steps 1",
)
REPEATED = (  # the parameters that are options of generate
    "steps",
    "sampler",
    "plan",
    "guidance_scale",
    "guidance_rescale",
    "image",
    "mask",
    "strength",
    "control_image",
    "control_scale",
    "height",
    "width",
    "dtype",
    "backend",
    "colormap",
    "columns",
)
MAX_SHOWN = 16  # a schedule of custom betas has a thousand
DEFAULTS = {"--dtype": "float32"}  # not the guidance scale: a model may have another than 1


def info(
    path: Annotated[
        Path | None, typer.Argument(metavar="MODEL|PNG", help="A model folder or file, or a PNG that fewstep made.")
    ] = None,
    allow_pickle: AllowPickle = False,
    download: Download = False,
    samplers: Annotated[bool, typer.Option("--samplers", help="What each sampler is, for --sampler.")] = False,
    presets: Annotated[bool, typer.Option("--presets", help="What families of distilled models are for.")] = False,
    cost: Annotated[
        bool,
        typer.Option(
            "--cost", help="Count launches, bytes and syncs of a step: of MODEL, sd15 or sdxl; else of presets."
        ),
    ] = False,
    steps: Annotated[int | None, typer.Option(help="With --cost: model calls of a run. Default: 4.")] = None,
    batch: Annotated[int | None, typer.Option(help="With --cost: samples of a run. Default: 1.")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="With --cost: 1 counts without guidance, other numbers with it. Default: both.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is installed, what a model is, or how a picture was made.

    For a model folder all weights are read and checked, but not for --cost.
    """
    if samplers:
        if path is not None or cost or presets:
            raise ArgumentError("samplers", True, "nothing beside it but --json")
        from fewstep.cli.samplers_view import show_samplers

        show_samplers(as_json=as_json)
        return
    if presets:
        if path is not None or cost:
            raise ArgumentError("presets", True, "nothing beside it but --json")
        from fewstep.cli.presets_view import show_presets

        show_presets(as_json=as_json)
        return
    if cost:
        from fewstep.cli.cost import show_cost

        show_cost(path, steps, batch, guidance_scale, as_json=as_json)
        return
    for name, value in {"steps": steps, "batch": batch, "guidance_scale": guidance_scale}.items():
        if value is not None:
            raise ArgumentError(name, value, "nothing without --cost")
    fitted: dict[str, Fitted] = {}
    if path is None:
        title, fields = "fewstep", _installation()
        held, found, lines = about_cache()
        fields |= {"cache": held, "made_ready": found}
        fitted |= {"cache": lambda _: in_short(held)} | ({"made_ready": lambda _: lines} if lines else {})
    elif path.suffix.lower() == ".png":
        title, fields = str(path), _picture(path)
    else:
        if download:
            from fewstep.models.download import fetch

            fetch(str(path), None, allow_pickle)
        engine, fields = _model(path, allow_pickle)
        title, fitted["plan"] = str(path), engine.plan().describe
    if as_json:
        emit(fields)
    else:
        facts = {name: fitted.get(name, _shown(value)) for name, value in fields.items()}
        emit_fields(title, {name.replace("_", " "): fact for name, fact in facts.items() if fact})


def _installation() -> dict[str, object]:
    import torch

    from fewstep.version import __version__

    return {
        "fewstep": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cpu": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "cuda": _cuda_devices() or _because("none", _why_no_cuda()),
        "triton_kernels": _triton_kernels(),
        "cuda_extension": _extension(),
        "attention": _attention(),
        "backends": {name: _version(package) for name, package in BACKENDS.items()},
        "backend": _automatic(),
        "extras": {name: _version(name) for name in EXTRAS},
    }


def _because(value: str, why: str) -> dict[str, str]:
    return {"value": value, "why": why}


def _cuda_devices() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [f"{gpu.name}, sm_{gpu.major}{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus]


def _why_no_cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return "this torch is built without CUDA, so models run on the CPU"
    return f"torch, built for CUDA {torch.version.cuda}, finds no device or driver, so models run on the CPU"


def _triton_kernels() -> dict[str, str]:
    if importlib.util.find_spec("triton") is None:
        return _because("none", "triton is not installed, so every op runs its definition in torch")
    if not _cuda_devices():
        return _because("not used", "they are for CUDA; on a CPU every op runs its definition in torch")
    return _because("used", "every op but attention; unproven: no committed result of this GPU yet")


def _extension() -> dict[str, str]:
    from fewstep_kernels._ext import extension

    module, why_not = extension()
    if module is None:
        return _because("none", why_not or "")
    return _because(
        "built", "unproven: no committed result of this GPU yet; FEWSTEP_ATTENTION=ours takes its attention"
    )


def _attention() -> dict[str, str]:
    import torch

    from fewstep_kernels._ext import device_refusal
    from fewstep_kernels.attention import forced

    if not torch.cuda.is_available():
        return _because("torch", "scaled_dot_product_attention; the hand-written kernel is for CUDA devices")
    why_not = device_refusal(torch.cuda.current_device())
    if why_not is None and forced() == "ours":
        return _because("ours", "FEWSTEP_ATTENTION asks for it; unproven: no committed result of this GPU yet")
    return _because("torch", f"scaled_dot_product_attention; {why_not or 'no committed result shows ours ahead'}")


def _automatic() -> dict[str, str]:
    """What "auto" takes on a CPU."""
    from fewstep.run.backends.names import ENVIRONMENT

    said = os.environ.get(ENVIRONMENT) or "auto"
    if said != "auto":
        return _because(said, f"{ENVIRONMENT} says so")
    if importlib.util.find_spec("openvino") is None:
        return _because("torch", "openvino is not installed: pip install 'fewstep[cpu]'")
    return _because("auto", "on a CPU openvino, for each kind of call where it is measured to be faster than torch")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _model(path: Path, allow_pickle: bool) -> "tuple[Engine, dict[str, object]]":
    from fewstep.engine import Engine
    from fewstep.models.bundled import model_folder
    from fewstep.models.load import open_folder
    from fewstep.pipelines.folder import text_pipeline
    from fewstep.pipelines.from_pipeline import CONTROLLED

    _, spec = open_folder(path, allow_pickle=allow_pickle)
    pipeline = text_pipeline(model_folder(path))
    words = "--prompt 'a red fox'" + " --control-image edges.png" * (pipeline in CONTROLLED)
    engine = Engine.from_pretrained(path, device="cpu", allow_pickle=allow_pickle)
    plan = engine.plan()
    return engine, {
        "name": spec.name,
        "description": spec.description,
        "family": spec.family,
        "pipeline": f"{pipeline}; fewstep generate {path} {words}" if pipeline else "",
        "parameters": sum(weights.numel() for weights in engine.module.parameters()),
        "shape": list(spec.shape),
        "labels": _labels(engine),
        "classes": list(engine.model.conditions.names),
        "guidance_scale": _guidance(engine),
        "second_time": spec.unet.second_time or "",
        "trained_for": str(engine.model.trained or ""),
        "schedule": spec.schedule,
        "prediction": spec.prediction,
        "defaults": spec.plan,
        "model_calls": len(plan),
        "plan": plan.describe(),
        "licence": spec.licence,
        "source": spec.source,
        "notes": list(spec.notes),
        "weights": "complete and finite",
    }


def _labels(engine: "Engine") -> str:
    return engine.model.conditions.allowed if engine.model.conditions.inputs else "none"


def _guidance(engine: "Engine") -> str:
    """What a request may say of guidance; empty where there is none to ask for."""
    by_hand = getattr(engine.module, "conditional", False)  # a context, and what stands for none
    return engine.model.guidance.about(guidable=engine.model.conditions.guidable or by_hand)


def _picture(path: Path) -> dict[str, object]:
    from fewstep.results import read_parameters

    parameters = read_parameters(path)
    if not parameters.get("Software", "").startswith("fewstep"):
        raise FewstepError(f"{path}: holds no parameters of fewstep; another program made or changed it")
    return {**parameters, "again": _again(parameters)}


def _again(parameters: dict[str, str]) -> str:
    """The command that makes a picture again; options that were left alone are left out."""
    from fewstep.results import TEXTS

    options = {
        "--labels": parameters.get("labels", parameters.get("label")),
        "--seeds": parameters.get("seeds", parameters.get("seed")),
        **{f"--{name.replace('_', '-')}": parameters.get(name) for name in (*REPEATED, "dtype", "colormap", "columns")},
    }
    if parameters.get("plan"):
        del options["--sampler"]  # which the preset says
    if "," in parameters.get("backend", "") or parameters.get("device", "cpu") != "cpu":
        del options["--backend"]  # there is one for all samples, and on a GPU one at all
    words = ["fewstep", "generate", parameters.get("model", "MODEL")]
    words += [
        word for name in TEXTS for text in _texts(parameters, name) for word in (f"--{name}".replace("_", "-"), text)
    ]
    words += [word for each in parameters.get("lora", "").split("; ") if each for word in ("--lora", each)]
    for name, value in options.items():
        words += [] if value in (None, DEFAULTS.get(name)) else [name, value]
    return shlex.join(words)


def _texts(parameters: dict[str, str], name: str) -> list[str]:
    """The prompts of a picture, or of each sample of a sheet."""
    try:
        return [str(each) for each in json.loads(parameters.get(f"{name}s", "[]"))] or [parameters[name]]
    except (KeyError, ValueError, TypeError):
        return []


def _shown(value: object) -> str:
    """A fact as text; an empty one is not shown."""
    if isinstance(value, dict):
        if value.keys() == {"value", "why"}:
            return f"{value['value']}: {value['why']}"
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    if isinstance(value, list) and len(value) > MAX_SHOWN:
        return f"{len(value)} values"
    if isinstance(value, list):
        between = "\n" if any(isinstance(item, str) for item in value) else " x "
        return between.join(_shown(item) for item in value)
    return f"{value:,}" if type(value) is int else str(value)

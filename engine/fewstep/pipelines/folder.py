"""A folder that diffusers saved a pipeline into, read as that pipeline: its text encoders, tokenizers, autoencoder."""

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch

from fewstep.errors import FewstepError, ModelError, reason_of, some_of
from fewstep.fields import Fields, read_json, shown
from fewstep.models.hub import name_of
from fewstep.models.layouts.diffusers_folder import STEM
from fewstep.models.layouts.diffusers_pipelines import CONDITIONED, PIPELINES
from fewstep.models.safe_load import inside
from fewstep.models.weights import find_weights
from fewstep.pipelines.from_pipeline import CONTROLLED, KINDS

INDEX: Final = "model_index.json"
# What each part may be; a name in a file is looked up among these alone. None: any of that library's.
PARTS: Final[Mapping[str, tuple[str, tuple[str, ...] | None]]] = {
    "unet": ("diffusers", (CONDITIONED,)),
    "vae": ("diffusers", ("AutoencoderKL", "AutoencoderTiny")),
    "scheduler": ("diffusers", None),
    "text_encoder": ("transformers", ("CLIPTextModel", "CLIPTextModelWithProjection")),
    "text_encoder_2": ("transformers", ("CLIPTextModel", "CLIPTextModelWithProjection")),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
    "tokenizer_2": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
}
WEIGHED: Final = ("unet", "vae", "text_encoder", "text_encoder_2", "controlnet")
CONTROL: Final = {"controlnet": ("diffusers", ("ControlNetModel",))}  # beside them, in a pipeline of CONTROLLED
LEFT_OUT: Final = ("safety_checker", "feature_extractor", "image_encoder")
MISSING: Final = "prompts are read by diffusers and transformers: pip install 'fewstep[pipelines]'"


def text_pipeline(folder: Path) -> str | None:
    """The class of the pipeline of prompts in a folder, where an engine runs it whole; None for any other folder."""
    if not (folder / INDEX).is_file():
        return None
    name = Fields(read_json(folder / INDEX), str(folder / INDEX)).data.get("_class_name")
    reads = isinstance(name, str) and name in KINDS and PIPELINES[name].unet == CONDITIONED
    return str(name) if reads else None


def load_pipeline(
    folder: Path, *, dtype: torch.dtype = torch.float32, variant: str | None = None, allow_pickle: bool = False
) -> Any:
    """The pipeline in a folder, on the CPU, without safety checker, by diffusers' own reader.

    Args:
        folder: for which `text_pipeline` knows the class.
        dtype: of the weights.
        variant: which weights, such as "fp16"; the plain ones unless given, or the only ones.
        allow_pickle: also read weights stored as pickles; they are refused otherwise.

    Raises:
        ModelError: a part that is missing, damaged, or of a class that is not read, in one line naming the folder.
        FewstepError: diffusers or transformers is not installed.
    """
    index = inside(folder, INDEX)
    read = Fields(read_json(index), str(index))
    kind = read.text("_class_name", max_length=100)
    absent = _checked(read, folder)
    try:
        import diffusers
        import transformers  # noqa: F401  without it diffusers has stand-ins whose errors do not say what to do
    except ImportError as error:
        raise FewstepError(f"{folder}: {MISSING}") from error
    options: dict[str, Any] = {"torch_dtype": dtype, "local_files_only": True}
    weights = options | {"use_safetensors": None if allow_pickle else True}
    whole = options | dict.fromkeys(absent) | ({} if "XL" in kind else {"requires_safety_checker": False})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*torch_dtype", FutureWarning)  # its name before diffusers 0.42
            for name in WEIGHED:
                if (read.data.get(name) or [None])[0]:
                    whole[name] = _part(folder, name, read.data[name], variant, weights)
            pipe = getattr(diffusers, kind).from_pretrained(str(folder), **whole)
    except FewstepError:
        raise
    except Exception as error:  # of many kinds: OSError, ValueError, KeyError, SafetensorError, RuntimeError
        advice = "; weights stored as pickles are refused" if isinstance(error, OSError) and not allow_pickle else ""
        raise ModelError(f"{folder}: cannot be read: {reason_of(error)}{advice}") from error
    pipe.register_to_config(_name_or_path=name_of(folder))
    return pipe


def _part(folder: Path, name: str, of: Sequence[str], variant: str | None, options: Mapping[str, Any]) -> Any:
    """A part with weights. ModelError for tensors that are missing, of which its library would draw random ones."""
    library, kind = of
    stem = STEM if library == "diffusers" else "model"
    try:
        found = find_weights(folder, f"{name}/", stem, variant).variant
    except ModelError:
        if name == "unet":
            raise
        found = find_weights(folder, f"{name}/", stem, None).variant  # as diffusers takes what there is
    reader: Any = getattr(import_module(library), kind)
    part, told = reader.from_pretrained(str(folder / name), output_loading_info=True, variant=found, **options)
    missing, unknown = sorted(told["missing_keys"]), sorted(told["unexpected_keys"])
    if missing:
        raise ModelError(f"{folder / name}: {len(missing)} tensors are missing: {some_of(missing, 5)}")
    if unknown and library == "diffusers":
        raise ModelError(f"{folder / name}: {len(unknown)} tensors have no place in it: {some_of(unknown, 5)}")
    return part


def _checked(read: Fields, folder: Path) -> list[str]:
    """The parts that are not read; ModelError for one that is of another class than those in PARTS, or is missing."""
    pipeline, control = read.data.get("_class_name"), read.data.get("controlnet")
    absent, parts = [], {**PARTS, **(CONTROL if pipeline in CONTROLLED else {})}
    if pipeline in CONTROLLED and not (isinstance(control, list) and any(control)):
        raise ModelError(f"{folder}: has no controlnet, after which a {pipeline} draws; allowed: a folder that has one")
    for name, value in read.data.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        library, kind = (*value, None, None)[:2]
        if name in LEFT_OUT:
            absent.append(name)
        elif name not in parts:
            raise read.error(name, f"got {shown(value)}, a part that fewstep does not run")
        elif kind is not None:
            own, classes = parts[name]
            if library != own or not isinstance(kind, str) or (classes is not None and kind not in classes):
                allowed = f"{own}' {' or '.join(classes)}" if classes else f"one of {own}'"
                raise read.error(name, f"got {shown(value)}; supported: {allowed}")
            if not (folder / name).is_dir():
                raise ModelError(f"{folder}: has no folder {name}, which {INDEX} names")
    encoders = [name for name in ("text_encoder", "text_encoder_2") if (read.data.get(name) or [None])[0]]
    if not encoders:
        raise ModelError(f"{folder}: has no text encoder, which reads prompts; allowed: a folder that has text_encoder")
    return absent

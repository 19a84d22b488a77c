"""A folder that diffusers saved a pipeline into, read as that pipeline: its text encoders, tokenizers, autoencoder."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from fewstep.errors import FewstepError, ModelError, reason_of
from fewstep.fields import Fields, read_json, shown
from fewstep.models.hub import name_of
from fewstep.models.layouts.diffusers_folder import STEM
from fewstep.models.layouts.diffusers_pipelines import CONDITIONED, PIPELINES
from fewstep.models.safe_load import inside
from fewstep.models.weights import find_weights
from fewstep.pipelines.from_pipeline import KINDS

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
    if variant is None:
        variant = find_weights(folder, "unet/", STEM, None).variant
    try:
        import diffusers
        import transformers  # noqa: F401  without it diffusers has stand-ins whose errors do not say what to do
    except ImportError as error:
        raise FewstepError(f"{folder}: {MISSING}") from error
    options: dict[str, Any] = {"torch_dtype": dtype, "variant": variant, "local_files_only": True}
    options |= {"use_safetensors": None if allow_pickle else True} | dict.fromkeys(absent)
    options |= {} if "XL" in kind else {"requires_safety_checker": False}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*torch_dtype", FutureWarning)  # its name before diffusers 0.42
            pipe = getattr(diffusers, kind).from_pretrained(str(folder), **options)
    except Exception as error:  # of many kinds: OSError, ValueError, KeyError, SafetensorError, RuntimeError
        advice = "" if allow_pickle else "; weights stored as pickles are refused"
        raise ModelError(f"{folder}: cannot be read: {reason_of(error)}{advice}") from error
    pipe.register_to_config(_name_or_path=name_of(folder))
    return pipe


def _checked(read: Fields, folder: Path) -> list[str]:
    """The parts that are not read; ModelError for one that is of another class than those in PARTS, or is missing."""
    absent = []
    for name, value in read.data.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        library, kind = (*value, None, None)[:2]
        if name in LEFT_OUT:
            absent.append(name)
        elif name not in PARTS:
            raise read.error(name, f"got {shown(value)}, a part that fewstep does not run")
        elif kind is not None:
            own, classes = PARTS[name]
            if library != own or not isinstance(kind, str) or (classes is not None and kind not in classes):
                allowed = f"{own}' {' or '.join(classes)}" if classes else f"one of {own}'"
                raise read.error(name, f"got {shown(value)}; supported: {allowed}")
            if not (folder / name).is_dir():
                raise ModelError(f"{folder}: has no folder {name}, which {INDEX} names")
    encoders = [name for name in ("text_encoder", "text_encoder_2") if (read.data.get(name) or [None])[0]]
    if not encoders:
        raise ModelError(f"{folder}: has no text encoder, which reads prompts; allowed: a folder that has text_encoder")
    return absent

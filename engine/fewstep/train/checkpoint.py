"""Checkpoints: one safetensors file each, complete or absent, whose content is checked against its own fingerprint."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fewstep.errors import FewstepError, ModelError, is_out_of_memory
from fewstep.fields import Fields, parse_json, shown
from fewstep.files import atomic_write
from fewstep.models.safe_load import SafetensorsFile

FORMAT: Final = 1
NAME: Final = re.compile(r"step-([0-9]{8,9})\.safetensors")
CORRUPT: Final = ".corrupt"
MAX_ABOUT: Final = 1 << 20
MAX_COMMANDS: Final = 100


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` steps."""

    path: Path
    step: int
    about: Mapping[str, Any]  # what the run was made of, as JSON
    tensors: Mapping[str, Tensor]  # float32, on the CPU


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any],
    keep: int,  # how many checkpoints the folder may hold, this one included
) -> Path:
    """Write `folder/step-00001000.safetensors`, then remove what is older than the last `keep`.

    Raises:
        OutputError: the disk is full, say; what was there is as it was.
        FewstepError: a tensor that is not finite, or words about the run that could not be read again, which would make
            this no good checkpoint.
    """
    state = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise FewstepError(f"step {step}: {name} holds NaN or infinity; no checkpoint is written")
    metadata = {
        "format": str(FORMAT),
        "step": str(step),
        "about": json.dumps(about),
        "sha256": _fingerprint(step, about, state),
    }
    parse_json(Fields(metadata, f"step {step}").text("about", max_length=MAX_ABOUT).encode(), f"step {step}: about")
    path = folder / f"step-{step:08d}.safetensors"
    with atomic_write(path) as file:
        file.write(save(state, metadata))
    for old in checkpoints(folder)[:-keep]:
        with suppress(OSError):
            old.unlink()
    return path


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file. ModelError names the file and what is wrong: truncated, altered, of another format."""
    source = SafetensorsFile(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: {error}") from error
    read = Fields(metadata, f"{path}: metadata")
    read.only("format", str(FORMAT))
    step, fingerprint = _step(read), read.text("sha256", max_length=64)
    if NAME.fullmatch(path.name) and _named_step(path) != step:
        raise ModelError(f"{path}: holds step {step}, which is not the one of its name")
    about = parse_json(read.text("about", max_length=MAX_ABOUT).encode(), f"{path}: metadata: about")
    _check_about(Fields(about, f"{path}: metadata: about"))
    tensors = {name: _whole(source, name) for name in source.shapes}
    if _fingerprint(step, about, tensors) != fingerprint:
        raise ModelError(f"{path}: its content is not what was written: the fingerprint differs")
    return Checkpoint(path, step, about, tensors)


def latest_checkpoint(
    folder: Path, say: Callable[[str], None], check: Callable[[Checkpoint], None] | None = None
) -> Checkpoint | None:
    """The last checkpoint of a folder that can be read; None if there never was one.

    Those after it are named through `say` and set aside, so that they neither count as kept nor are met again. If
    none can be read, all stay as they are, and ModelError names the last.

    Args:
        check: raises ModelError for a checkpoint that can be read and is no good all the same.
    """
    problems: list[tuple[Path, FewstepError]] = []
    for path in reversed(checkpoints(folder)):
        try:
            found = read_checkpoint(path)
            if check is not None:
                check(found)
        except ModelError as error:
            problems.append((path, error))
            continue
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            problems.append((path, ModelError(f"{path}: is too large for the memory there is")))
            continue
        for bad, problem in problems:
            say(f"{problem}; set aside as {bad.name}{CORRUPT}, {path.name} is used instead")
            with suppress(OSError):
                bad.rename(bad.with_name(bad.name + CORRUPT))
        return found
    if problems:
        raise ModelError(f"{problems[0][1]}; no earlier checkpoint can be read either")
    return None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the oldest first."""
    found = [path for path in folder.glob("step-*.safetensors") if NAME.fullmatch(path.name)]
    return sorted(found, key=_named_step)


def _named_step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _step(read: Fields) -> int:
    text = read.text("step", max_length=9)
    if not text.isascii() or not text.isdigit():
        raise read.error("step", f"got {shown(text)}; allowed: a number")
    return int(text)


def _check_about(read: Fields) -> None:
    """What runs look for in it is of the right kind; whatever else stands there is theirs."""
    if "config" in read.data:
        read.child("config")
    read.number("seconds", 0, 1e12, 0)
    read.texts("commands", ())
    for name in ("digest", "device"):
        read.text(name, "")
    read.integer("threads", 0, 1 << 31, 0)


def _whole(source: SafetensorsFile, name: str) -> Tensor:
    tensor = source.read(name)
    if tensor.dtype != torch.float32 or not tensor.isfinite().all():
        raise ModelError(f"{source.path}: tensor {shown(name)} is not of finite float32")
    return tensor


def _fingerprint(step: int, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    seen = hashlib.sha256(json.dumps([step, about], sort_keys=True).encode())
    for name in sorted(tensors):
        seen.update(f"{name} {list(tensors[name].shape)}".encode())
        seen.update(tensors[name].numpy().data)
    return seen.hexdigest()

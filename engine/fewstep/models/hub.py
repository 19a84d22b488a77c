"""The cache of the Hugging Face hub, as a folder: which snapshot is meant, and which links in it are its own.

    models--google--ddpm-cifar10-32/
        refs/main                    the revision that "main" is
        snapshots/<revision>/...     links to ../../blobs/<hash>
        blobs/<hash>                 the files

Nothing here asks the network; `download` does, where a caller wants it.
"""

import os
import re
from pathlib import Path
from typing import Final

from fewstep.errors import ModelError

_REPOSITORY: Final = "models--"
_ID: Final = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_FILE: Final = re.compile(r"(?P<id>[^/]+/[^/]+)/(?P<file>[\w./ +-]{1,255}\.(?:safetensors|ckpt|pt|pth|bin))", re.ASCII)
_ADDRESS: Final = re.compile(
    r"(?:https?:/{1,2}(?:www\.)?(?:huggingface\.co|hf\.co)/|hf:/{1,2})(?P<id>[^/@?#]+/[^/@?#]+).*", re.DOTALL
)
_WITH_REVISION: Final = re.compile(r"(?P<id>[^/@:]+/[^/@:]+)[@:].*", re.DOTALL)
_REVISION: Final = re.compile(r"[A-Za-z0-9_][\w.-]{0,127}", re.ASCII)


def cache_folder() -> Path:
    """Where the hub's libraries keep what they download, by the environment variables that they read."""
    if folder := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(folder).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches / "huggingface" / "hub"


def is_id(name: str) -> bool:
    """Whether a name could be a model of the hub's, such as google/ddpm-cifar10-32."""
    return _ID.fullmatch(name) is not None


def of_hub(name: str) -> tuple[str, str | None] | None:
    """The model of the hub that a name means, and the file of it where it names one: (owner/model, file)."""
    if is_id(name):
        return name, None
    found = _FILE.fullmatch(name)
    if found is None or not is_id(found["id"]) or {"", ".", ".."} & set(found["file"].split("/")):
        return None
    return found["id"], found["file"]


def cached(name: str) -> Path | None:
    """The snapshot of a model that lies in the cache already, or the file of it; None where it does not."""
    meant = of_hub(name)
    if meant is None:
        return None
    repository = cache_folder() / (_REPOSITORY + meant[0].replace("/", "--"))
    if not (repository / "snapshots").is_dir():
        return None
    found = snapshot(repository)
    if meant[1] is None:
        return found
    file = found / meant[1]
    if not file.is_file():
        return None
    if Path(os.path.realpath(file)).parent != Path(os.path.realpath(repository / "blobs")):
        raise ModelError(f"{file}: leads out of the repository; allowed: a link to a file in its blobs")
    return file


def how_to_get(name: str) -> str:
    """What to do about a model that is not on this machine."""
    return (
        f"nor in the Hugging Face cache {cache_folder()}, and nothing is downloaded unasked; "
        f"to get it: from_pretrained({name!r}, download=True), --download of the commands that have it, "
        f"or hf download {name}"
    )


def meant_by(name: str) -> str | None:
    """The model that an address on the hub, or a name with a revision, is of; None where `name` is neither."""
    found = _ADDRESS.fullmatch(name) or _WITH_REVISION.fullmatch(name)
    return found["id"] if found and is_id(found["id"]) else None


def snapshot(folder: Path) -> Path:
    """The snapshot that is meant where `folder` is a repository of the cache: that of main, or the only one.

    Any other folder is returned as it is. ModelError where it is not clear which is meant.
    """
    # By where it lies, since a link to it may have any name.
    if not os.path.basename(os.path.realpath(folder)).startswith(_REPOSITORY) or not (folder / "snapshots").is_dir():
        return folder
    there = sorted(path.name for path in (folder / "snapshots").iterdir() if path.is_dir())
    main = _main(folder)
    if main is None and len(there) == 1:
        main = there[0]
    if main not in there:
        meant = f"refs/main names {main}" if main else "no refs/main says which is meant"
        raise ModelError(f"{folder / 'snapshots'}: {meant}; allowed: one of those there: {', '.join(there) or 'none'}")
    chosen = folder / "snapshots" / main
    if not Path(os.path.realpath(chosen)).is_relative_to(os.path.realpath(folder)):
        raise ModelError(f"{chosen}: leads out of {folder}")
    return chosen


def name_of(folder: Path) -> str:
    """What a folder's model is called: by its own name, or by the hub's where it is a snapshot."""
    blobs = blobs_of(folder)
    if blobs is None:
        return folder.resolve().name
    return "/".join(blobs.parent.name.removeprefix(_REPOSITORY).split("--", 1))


def blobs_of(folder: Path) -> Path | None:
    """Where the files of a snapshot lie, which its links lead to; None where `folder` is in no snapshot."""
    path = Path(os.path.realpath(folder))
    for parent in path.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith(_REPOSITORY):
            return parent.parent / "blobs"
    return None


def _main(folder: Path) -> str | None:
    try:
        with (folder / "refs" / "main").open("rb") as file:
            revision = file.read(256).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return revision if _REVISION.fullmatch(revision) else None

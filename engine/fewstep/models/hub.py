"""The cache of the Hugging Face hub, as a folder: which snapshot is meant, and which links in it are its own.

    models--google--ddpm-cifar10-32/
        refs/main                    the revision that "main" is
        snapshots/<revision>/...     links to ../../blobs/<hash>
        blobs/<hash>                 the files

Nothing here asks the network.
"""

import os
import re
from pathlib import Path
from typing import Final

from fewstep.errors import ModelError

_REPOSITORY: Final = "models--"
_ID: Final = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
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


def cached(name: str) -> Path | None:
    """The snapshot of a model that lies in the cache already; None where it does not."""
    if not is_id(name):
        return None
    repository = cache_folder() / (_REPOSITORY + name.replace("/", "--"))
    return snapshot(repository) if (repository / "snapshots").is_dir() else None


def how_to_get(name: str) -> str:
    """What to do about a model that is not on this machine."""
    local = name.rpartition("/")[2]
    return (
        f"nor in the Hugging Face cache {cache_folder()}, and fewstep downloads nothing; "
        f"to get it: hf download {name} --local-dir {local}, then give the folder {local}"
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

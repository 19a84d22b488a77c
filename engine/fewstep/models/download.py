"""What is read of a model on the Hugging Face hub, fetched into the hub's cache; only where a caller asks for it."""

import glob
import os
import posixpath
import re
from collections.abc import Collection
from typing import Final

from fewstep.errors import ModelError, reason_of, some_of
from fewstep.fields import shown
from fewstep.models.bundled import SPEC_FILE, names
from fewstep.models.hub import cache_folder, cached, meant_by, of_hub
from fewstep.models.weights import chosen

OWN_WEIGHTS: Final = "model.safetensors"
SHOWN: Final = 5  # files that a message lists
STEMS: Final = ("diffusion_pytorch_model", "model")  # of diffusers, and of transformers and EDM
PARTS: Final = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "controlnet")  # beside the U-Net


def fetch(name: str, variant: str | None = None, allow_pickle: bool = False, whole: bool = False) -> None:
    """Bring the files of a model that are read here into the hub's cache, as far as they are not there.

    Of a pipeline these are the config and the weights of its U-Net, and its scheduler's config. The progress is shown
    by the hub's library, whose HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT are heeded. Offline the cache has to do.

    Args:
        name: such as "stabilityai/sd-turbo", or with a file of it, as "ByteDance/SDXL-Lightning/NAME.safetensors". A
            folder, a file, or a model in the box is not asked for.
        variant: of the weights, such as "fp16".
        allow_pickle: weights that are pickles will be read too.
        whole: also what a pipeline reads prompts and makes images with.

    Raises:
        ModelError: a model that is not on the hub, that asks for consent, or that has nothing that can be read; no
            connection, and nothing in the cache.
    """
    if os.path.exists(name) or name in names() or (of_hub(name) is None and meant_by(name) is None):
        return
    found = of_hub(name)
    if found is None:
        raise ModelError(f"{name}: is no name of a model on the hub; allowed: {meant_by(name)}")
    repository, file = found
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError
    except ImportError as error:
        raise ModelError(f"{name}: downloading needs the hub's library: pip install 'fewstep[hub]'") from error
    try:
        listed = HfApi().list_repo_files(repository)
        wanted = [file] if file is not None else needed(listed, repository, variant, allow_pickle, whole)
        if file is not None and file not in listed:
            raise ModelError(f"{repository}: has no {file} on the hub; there: {_files(listed)}")
        patterns = [glob.escape(each) for each in wanted]
        snapshot_download(repository, allow_patterns=patterns, cache_dir=cache_folder())
    except ModelError:
        raise
    except GatedRepoError as error:
        page = f"https://huggingface.co/{repository}"
        said = f"its owner asks for consent, at {page}, and then for a token: hf auth login"
        raise ModelError(f"{name}: cannot be downloaded: {said}") from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"{name}: cannot be downloaded: the hub has no such model, or it is private") from error
    # Whatever the hub's library and the network raise, it is the download that failed; the cache may do without.
    except Exception as error:
        if cached(repository) is not None:
            return
        offline = isinstance(error, OfflineModeIsEnabled)
        why = "HF_HUB_OFFLINE is set, and it is not in the cache" if offline else reason_of(error)
        raise ModelError(f"{name}: cannot be downloaded: {why}") from error


def needed(
    listed: Collection[str], repository: str, variant: str | None, allow_pickle: bool, whole: bool = False
) -> list[str]:
    """The files of a repository that `load_model` reads; `whole`: that a pipeline which reads prompts does.

    Raises:
        ModelError: a repository without a model, or whose weights are pickles alone where these are not allowed.
    """
    if SPEC_FILE in listed:
        return [SPEC_FILE, OWN_WEIGHTS]
    if "model_index.json" in listed:
        config = "unet/config.json" if "unet/config.json" in listed else "config.json"
        schedulers = ("scheduler/scheduler_config.json", "scheduler_config.json")
        wanted = ["model_index.json", config, *[each for each in schedulers if each in listed][:1]]
    elif "config.json" in listed:
        config, wanted = "config.json", ["config.json"]
    else:
        files = [each for each in listed if each.endswith(".safetensors")]
        hint = (
            f"; a file of it may be one by itself: {_files(files, repository)}"
            if files
            else f"; there: {_files(listed)}"
        )
        expected = f"expected {SPEC_FILE}, model_index.json or config.json"
        raise ModelError(f"{repository}: holds no model on the hub; {expected}{hint}")
    place = posixpath.dirname(config)
    wanted += _weights(listed, repository, place, variant, allow_pickle)
    if whole and place:
        wanted += _others(listed, repository, variant, allow_pickle)
    return wanted


def _others(listed: Collection[str], repository: str, variant: str | None, allow_pickle: bool) -> list[str]:
    """What a whole pipeline reads beside its U-Net and scheduler: small files, and the weights of each part."""
    wanted = []
    for part in PARTS:
        there = [posixpath.basename(each) for each in listed if posixpath.dirname(each) == part]
        texts = [name for name in there if name.endswith((".json", ".txt")) and ".index." not in name]
        wanted += [posixpath.join(part, name) for name in texts]
        if any(name.startswith(STEMS) for name in there):
            has_variant = any(f".{variant}" in name for name in there)  # a part may have the plain weights alone
            wanted += _weights(listed, repository, part, variant if has_variant else None, allow_pickle)
    return wanted


def _weights(
    listed: Collection[str], repository: str, place: str, variant: str | None, allow_pickle: bool
) -> list[str]:
    """The files of the weights in a folder of a repository."""
    there = [posixpath.basename(each) for each in listed if posixpath.dirname(each) == place]
    stem = STEMS[0] if any(name.startswith(STEMS[0]) for name in there) else STEMS[1]
    weights, _ = chosen(there, stem, variant, f"{repository}/{place}".rstrip("/"))
    path = posixpath.join(place, weights)
    if weights not in there:
        raise ModelError(f"{repository}: has no {path} on the hub; there: {_files(listed)}")
    if ".bin" in weights and not allow_pickle:
        raise ModelError(f"{repository}: has its weights as a pickle, {path}; allowed: .safetensors, or allow_pickle")
    return [posixpath.join(place, each) for each in _with_shards(weights, there)]


def _with_shards(weights: str, there: Collection[str]) -> list[str]:
    """A weight file; or an index and what it can list: the files of its stem and variant that are counted through."""
    index = re.fullmatch(r"(?P<stem>.+)\.(?P<ending>safetensors|bin)\.index(?:\.(?P<variant>[\w-]+))?\.json", weights)
    if index is None:
        return [weights]
    stem, ending, variant = (index[name] for name in ("stem", "ending", "variant"))
    count = r"-\d+-of-\d+"
    counted = rf"(?:\.{variant}{count}|{count}\.{variant})" if variant else count
    shard = re.compile(rf"{re.escape(stem)}{counted}\.{ending}", re.ASCII)
    return [weights, *sorted(name for name in there if shard.fullmatch(name))]


def _files(listed: Collection[str], repository: str = "") -> str:
    ordered = sorted(posixpath.join(repository, each) for each in listed)
    return some_of([shown(each) for each in ordered], SHOWN) or "nothing"

"""`fewstep serve`: models behind OpenAI's endpoints for images."""

import math
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewstep.checks import integer, named
from fewstep.cli import options
from fewstep.cli.machine import check_backend, check_device, dtype_of, set_threads
from fewstep.cli.shared import emit, examples, say, write_out
from fewstep.errors import ArgumentError, FewstepError

if TYPE_CHECKING:
    from fewstep.serve.family import Family
    from fewstep.serve.limits import Limits

EXAMPLES = examples(
    "The digits in the box, on http://127.0.0.1:8000; the page at / tries them out:",
    "  fewstep serve",
    "An image of them from another terminal:",
    "  curl -sf localhost:8000/v1/images/generations -H 'Accept: image/png' --json '{\"prompt\": \"7\"}' -o 7.png",
    "Two models under names of your choice, for a whole network, with a key:",
    "  fewstep serve digits fox=.models/sd-turbo --host 0.0.0.0 --api-key-file key.txt",
    "On a free port, where each image's bits do not depend on what runs beside it:",
    "  fewstep serve digits --port 0 --batch-invariant --json",
)
LEVELS = ("debug", "info", "warning", "error")
KEY_VARIABLE = "FEWSTEP_API_KEY"
SERVER, LIMITS = "Server", "Limits"
MISSING = "serving needs further packages: pip install 'fewstep[serve]'"
MAX_SLOTS, MAX_QUEUE, MAX_DRAIN = 256, 100_000, 3600.0

Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL", help="Folders, files or digits; NAME=MODEL gives a name. Default: digits."),
]


def _option(text: str, panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def serve(
    models: Models = None,
    host: Annotated[str, _option("Address to listen on; 0.0.0.0: all networks.", SERVER)] = "127.0.0.1",
    port: Annotated[int, _option("0: a free one.", SERVER)] = 8000,
    uds: Annotated[
        Path | None, _option("A Unix socket instead of host and port. Default: none.", SERVER, metavar="PATH")
    ] = None,
    api_key_file: Annotated[
        Path | None, _option(f"Whose first line is the key. Default: {KEY_VARIABLE}, else no key.", SERVER)
    ] = None,
    page: Annotated[bool, _option("The page at /.", SERVER)] = True,
    admin: Annotated[bool, _option("/admin, with a key: LoRA adapters come and go.", SERVER, "--admin")] = False,
    lora_folder: Annotated[Path | None, _option("Where /admin/lora may read. Default: nowhere.", SERVER)] = None,
    warmup: Annotated[
        Path | None,
        _option("A file of Engine.manifest, to be ready for. Default: an image of each model.", SERVER),
    ] = None,
    log_level: Annotated[str, _option(f"Of the lines on stderr: {options.one_of(LEVELS)}.", SERVER)] = "info",
    slots: Annotated[int, _option("Images that run together on a model.", LIMITS)] = 16,
    queue: Annotated[int, _option("Images that wait, at most; more are told to come again.", LIMITS)] = 256,
    drain_timeout: Annotated[float, _option("Seconds for what was let in, after SIGTERM.", LIMITS)] = 30.0,
    limit: Annotated[
        list[str] | None,
        _option("As body_bytes=1000000, again for another. Default: none.", LIMITS, metavar="BOUND"),
    ] = None,
    batch_invariant: Annotated[
        bool, _option("An image's bits do not depend on what runs beside it.", LIMITS, "--batch-invariant")
    ] = False,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    variant: options.Variant = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.AsJson = False,
) -> int:
    """Serve models behind OpenAI's endpoints for images, with a page to try them.

    Requests of all clients share the steps of a model. Stopped by Ctrl-C or SIGTERM, once what was let in is done; a
    second Ctrl-C does not wait. With --json one object is printed when requests are let in. Ends with 3 where the
    device is lost.
    """
    try:
        from fewstep.serve.address import Address
        from fewstep.serve.limits import Limits
        from fewstep.serve.server import logging_to_stderr
        from fewstep.serve.server import serve as run
        from fewstep.serve.settings import Settings
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "fewstep":
            raise
        raise FewstepError(MISSING) from error

    if log_level not in LEVELS:
        raise ArgumentError("log_level", log_level, options.one_of(LEVELS))
    key = _key(api_key_file)
    if admin and key is None:
        raise ArgumentError("admin", True, f"only with a key: --api-key-file, or {KEY_VARIABLE}")
    if not 0 <= drain_timeout <= MAX_DRAIN:
        raise ArgumentError("drain_timeout", drain_timeout, f"seconds from 0 to {MAX_DRAIN:g}")
    for name, path in (("lora_folder", lora_folder), ("warmup", warmup)):
        if path is not None and not path.exists():
            raise ArgumentError(name, str(path), "a path that is there")
    limits = Limits(
        slots=integer("slots", slots, 1, MAX_SLOTS),
        queue=integer("queue", queue, 1, MAX_QUEUE),
        drain_seconds=drain_timeout,
    )
    limits = replace(limits, **bounds(limit or [], limits))
    folder = None if lora_folder is None else str(lora_folder)
    settings = Settings(limits, key, page, admin, folder)
    address = Address(host, port, None if uds is None else str(uds))
    if not address.is_local and key is None:
        say("warning", "bold yellow", f"{host} is open to other machines, and there is no key: see --api-key-file")
    weights = dtype_of(dtype)
    check_device(device)
    check_backend(backend, device, weights)
    set_threads(threads)
    wanted = named_models(models or ["digits"])
    opening: dict[str, Any] = {
        "device": device,
        "dtype": weights,
        "backend": backend,
        "batch_invariant": batch_invariant,
    }
    opening |= {"variant": variant, "allow_pickle": allow_pickle}

    def opened() -> Mapping[str, "Family"]:
        from fewstep.serve.family import Family

        return {name: Family.open(name, model, **opening) for name, model in wanted.items()}

    def ready(url: str) -> None:
        if as_json:
            emit({"url": url, "models": list(wanted), "pid": os.getpid()})
        else:
            write_out(f"{', '.join(wanted)} on {url}\n")

    with logging_to_stderr(log_level):
        return run(opened, settings, address, manifest=warmup, ready=ready)


def named_models(words: list[str]) -> dict[str, str]:
    """Models by the names that they are served as.

    Raises:
        ArgumentError: two of one name.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, model = word.partition("=")
        if not equals or Path(word).exists():
            name, model = Path(word).name if Path(word).exists() else word, word
        if not name or not model:
            raise ArgumentError("models", word, "NAME=MODEL, such as fox=.models/sd-turbo")
        if name in found:
            raise ArgumentError("models", word, f"another name than {name}, which {found[name]} has: NAME=MODEL")
        found[name] = model
    return found


def bounds(words: list[str], limits: "Limits") -> dict[str, Any]:
    """Bounds of a server by name, as they are typed.

    Raises:
        ArgumentError: another name, or no number above 0.
    """
    known = {field.name: getattr(limits, field.name) for field in fields(limits)}
    found: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in known:
            raise ArgumentError("limit", word, f"NAME=VALUE with one of {named(known, name)}")
        kind = type(known[name])
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < math.inf:
            allowed = "an integer" if kind is int else "a number"
            raise ArgumentError("limit", word, f"{name}= with {allowed} above 0, such as {known[name]}")
        found[name] = value
    return found


def _key(file: Path | None) -> str | None:
    """The first line of a file, else what the environment says.

    Raises:
        ArgumentError: a file without one.
    """
    if file is None:
        return os.environ.get(KEY_VARIABLE, "").strip() or None
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeError) as error:
        raise ArgumentError("api_key_file", str(file), "a text file that can be read") from error
    key = lines[0].strip() if lines else ""
    if not key:
        raise ArgumentError("api_key_file", str(file), "a file with a key in its first line")
    return key

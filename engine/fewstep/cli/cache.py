"""`fewstep cache`: what was made ready for a backend and is kept for the next process."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from fewstep.cli.options import AsJson
from fewstep.cli.page import titled_table
from fewstep.cli.shared import emit, emit_fields, examples, plain, write_out
from fewstep.files import output_error

if TYPE_CHECKING:
    from fewstep.run.backends.cache import Cache, Entry

EXAMPLES = examples(
    "What is kept, how large it is, and what was measured:",
    "  fewstep cache",
    "Remove all of it; the next run makes ready what it needs:",
    "  fewstep cache --clear",
    "For a script:",
    "  fewstep cache --json",
)
MODELS: Final = ("network", "weights", "inputs", "size", "last used")
FINDINGS: Final = ("network", "weights", "x", "dtype", "threads", "takes it", "ms", "torch ms", "error", "last used")
GIB: Final = 2**30
SHOWN: Final = 5  # by `fewstep info`


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove every entry.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what was made ready for a backend and is kept for the next time, or remove it.

    A network that OpenVINO executes is converted once, which takes seconds to minutes; what comes of it, and what was
    measured beside torch, is kept by the content of the weights. FEWSTEP_CACHE names the folder, and FEWSTEP_CACHE_GB
    how many GiB it may hold: 4 unless given, and 0 for none; what was used least recently goes first.
    """
    from fewstep.run.backends.cache import Cache

    kept = Cache.of_user()
    if clear:
        _clear(kept, as_json)
        return
    entries = kept.entries()
    about = _about(kept, entries)
    if as_json:
        emit({**about, "entries": [_as_json(entry) for entry in entries]})
        return
    models = [entry for entry in entries if entry.facts.get("what") != "finding"]
    findings = [entry for entry in entries if entry.facts.get("what") == "finding"]
    size = f"{_count(len(entries))}, {size_of(about['bytes'])} of {size_of(kept.limit)}"
    emit_fields("cache", {"folder": kept.folder, "size": size})
    lines: list[str] = []
    if models:
        lines += titled_table("Converted networks", [MODELS, *map(_model, models)], keys=2, left=3)
    if findings:
        title = "Measured here: what takes a call, and how far it is from torch"
        lines += titled_table(title, [FINDINGS, *map(_finding, findings)], keys=2, left=4)
    if lines:
        write_out("\n".join(lines) + "\n")


def about_cache() -> tuple[dict[str, Any], list[dict[str, object]], str]:
    """For `fewstep info`: the cache, what is known of each kind of call that was made ready, and that in lines."""
    from fewstep.run.backends.cache import Cache

    kept = Cache.of_user()
    entries = kept.entries()
    found = [entry for entry in entries if entry.facts.get("what") == "finding"]
    lines = [_in_words(entry) for entry in found[:SHOWN]]
    lines += [f"and {len(found) - SHOWN} more: fewstep cache"] if len(found) > SHOWN else []
    return _about(kept, entries), [_as_json(entry) for entry in found], "\n".join(lines)


def _in_words(entry: "Entry") -> str:
    """A finding as a line."""
    network, digest, x, dtype, _, taken, ours, theirs, error, _ = _finding(entry)
    timed = "" if ours == "-" else f", {ours} ms (torch {theirs})"
    seconds = [_found(entry).get(name) for name in ("convert_seconds", "compile_seconds")]
    cost = sum(each for each in seconds if isinstance(each, float))
    return f"{network} {digest}, {x}, {dtype}: {taken}{timed}, error {error}, {_number(cost)} s to make ready"


def _clear(kept: "Cache", as_json: bool) -> None:
    count = len(kept.entries())
    try:
        freed = kept.clear()
    except OSError as error:
        raise output_error(kept.folder, error) from error
    if as_json:
        emit({"folder": kept.folder, "removed": count, "freed_bytes": freed})
    else:
        emit_fields("cache", {"folder": kept.folder, "removed": f"{_count(count)}, {size_of(freed)}"})


def _about(kept: "Cache", entries: "Sequence[Entry]") -> dict[str, Any]:
    size = sum(entry.size for entry in entries)
    return {"folder": str(kept.folder), "entries": len(entries), "bytes": size, "limit_bytes": kept.limit}


def in_short(about: Mapping[str, Any]) -> str:
    """The cache in a line, under its folder."""
    size, limit = size_of(about["bytes"]), size_of(about["limit_bytes"])
    return f"{about['folder']}\n{_count(about['entries'])}, {size} of {limit}; fewstep cache"


def _count(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"


def size_of(count: int) -> str:
    """Bytes in words."""
    for unit, scale in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} bytes"


def _model(entry: "Entry") -> tuple[str, ...]:
    inputs = entry.facts.get("inputs")
    shown = "; ".join(_input(each) for each in inputs) if isinstance(inputs, list) else entry.facts.get("what", "")
    return (*_network(entry.facts), plain(shown), size_of(entry.size), _when(entry.used))


def _finding(entry: "Entry") -> tuple[str, ...]:
    facts, found = entry.facts, _found(entry)
    inputs = facts.get("inputs") or [[""]]
    return (
        *_network(facts),
        plain(" x ".join(str(side) for side in inputs[0][1:])),
        plain(facts.get("dtype", "")),
        plain(facts.get("threads") or facts.get("torch_threads", "")),
        plain(found.get("taken", "")),
        _number(found.get("milliseconds")),
        _number(found.get("torch_milliseconds")),
        _number(found.get("error"), ".1e"),
        _when(entry.used),
    )


def _network(facts: Mapping[str, Any]) -> tuple[str, str]:
    return plain(facts.get("network", facts.get("what", ""))), plain(str(facts.get("digest", ""))[:8])


def _input(like: Sequence[object]) -> str:
    """float32 ? x 3 x 32 x 32"""
    dtype, *sides = like
    return f"{dtype} {' x '.join('?' if side is None else str(side) for side in sides)}"


def _number(value: object, form: str = ".3g") -> str:
    if not isinstance(value, float):
        return "-"
    return f"{value:.0f}" if value >= 100 else format(value, form)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else "-"


def _found(entry: "Entry") -> dict[str, Any]:
    found = entry.facts.get("found")
    return found if isinstance(found, dict) else {}


def _as_json(entry: "Entry") -> dict[str, object]:
    facts = {name: value for name, value in entry.facts.items() if name != "found"}
    used = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.used)) if entry.used else None
    return {"key": entry.key, "bytes": entry.size, "last_used": used, **facts, **_found(entry)}

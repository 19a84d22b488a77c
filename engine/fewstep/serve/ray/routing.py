"""Which replica a request prefers: requests that run on the same network at the same shape meet where it is warm.

A key is a hint. Whatever it says, the replica answers in the same way, so nothing is refused here, and what is too
large to be read for a hint is routed by its path alone.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fewstep.serve.family import Family

READ: Final = 1 << 20  # bytes of a body that are read for a key
HEAD: Final = 64 << 10  # of a form, whose short fields come first
AUTO: Final = (None, "", "auto")


@dataclass(frozen=True)
class Route:
    """A served name.

    Attributes:
        size: of its images, "WxH".
        members: who draws in so many steps, by its name; None is for a request that says no number.
    """

    size: str
    members: Mapping[int | None, str]

    @classmethod
    def of(cls, family: Family, steps: int) -> "Route":
        """A family's, for up to so many steps."""
        _, height, width = family.first.image_shape
        return cls(f"{width}x{height}", {count: family.member(count).name for count in (None, *range(1, steps + 1))})


def key_of(path: str, content_type: str, body: bytes, routes: Mapping[str, Route]) -> str:
    """Kind of request, model, member, size and adapters, as one text."""
    said = fields_of(content_type, body)
    name = said.get("model")
    route = routes.get(name) if isinstance(name, str) else None
    if route is None:
        return path
    steps = _count(said.get("num_inference_steps", said.get("steps")))
    member = route.members.get(steps) or route.members[None]
    size = said.get("size")
    return json.dumps([path, name, member, route.size if size in AUTO else str(size), _adapters(said.get("lora"))])


def fields_of(content_type: str, body: bytes) -> Mapping[str, Any]:
    """The fields of a body in JSON, or the short ones of a form; empty where it cannot be read at little cost."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        boundary = content_type.partition("boundary=")[2].partition(";")[0].strip().strip('"')
        return dict(_form(boundary.encode("latin-1", "replace"), body[:HEAD])) if boundary else {}
    if len(body) > READ:
        return {}
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _form(boundary: bytes, body: bytes) -> Iterable[tuple[str, str]]:
    for part in body.split(b"--" + boundary)[1:-1]:
        head, blank, value = part.strip(b"\r\n").partition(b"\r\n\r\n")
        disposition = next(
            (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-disposition")), b""
        )
        if blank and b"filename" not in disposition and b' name="' in disposition:
            name = disposition.partition(b' name="')[2].partition(b'"')[0]
            yield name.decode("utf-8", "replace"), value.decode("utf-8", "replace")


def _count(value: Any) -> int | None:
    """A number of steps, of a form in digits."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 9 else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _adapters(said: Any) -> str:
    """In one order, whatever order they were said in."""
    if isinstance(said, dict):
        return json.dumps(sorted(said.items(), key=str), default=str)
    return json.dumps(sorted(map(str, said)) if isinstance(said, list) else str(said or ""))

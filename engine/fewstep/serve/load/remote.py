"""A server, seen from outside: its address, its models, and what they draw."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fewstep.errors import ArgumentError, FewstepError

if TYPE_CHECKING:
    import aiohttp

PROMPT = "a photograph of a red fox in the snow"
MOST = 8 << 20  # bytes of what a server says of itself


@dataclass(frozen=True)
class Target:
    """A server to be given a load.

    Attributes:
        url: such as http://127.0.0.1:8000. Nothing is sent anywhere else: redirects and proxies are not followed.
        model: a served name; the first that there is unless given.
        key: that requests bear, where the server asks for one.
    """

    url: str
    model: str | None = None
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ArgumentError("url", self.url, "an address like http://127.0.0.1:8000")


@dataclass(frozen=True)
class Served:
    """A model of a server.

    Attributes:
        model: its served name.
        size: width and height of its pictures; None where the server does not say.
        subjects: what to draw: each class once, or a prompt.
        about: what the server says of the model.
        slots: samples that it runs together, at most; None where the server does not say.
    """

    model: str
    size: tuple[int, int] | None
    subjects: Sequence[Mapping[str, Any]]
    about: Mapping[str, Any]
    slots: int | None

    def facts(self, target: Target) -> dict[str, Any]:
        """For a report."""
        return {"url": target.url, "model": self.model, "slots": self.slots, "about": dict(self.about)}


def session_of(target: Target, timeout: float) -> "aiohttp.ClientSession":
    """A session of aiohttp with a server; to be entered and left.

    Raises:
        FewstepError: aiohttp is not installed.
    """
    try:
        import aiohttp
    except ImportError:
        raise FewstepError("a load needs aiohttp: pip install 'fewstep[serve]'") from None
    headers = {} if target.key is None else {"Authorization": f"Bearer {target.key}"}
    return aiohttp.ClientSession(
        target.url,
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=timeout),
        connector=aiohttp.TCPConnector(limit=0),
        trust_env=False,
    )


async def look(session: "aiohttp.ClientSession", target: Target) -> Served:
    """What a server says of a model of it.

    Raises:
        FewstepError: it is not reached, or refuses.
        ArgumentError: it does not have that model.
    """
    listed = await _said(session, target, "/v1/models")
    names = [str(each["id"]) for each in listed.get("data", ())]
    if not names:
        raise FewstepError(f"{target.url}: serves no model")
    model = names[0] if target.model is None else target.model
    if model not in names:
        raise ArgumentError("model", model, f"what {target.url} serves: {', '.join(names)}")
    capable = await _said(session, target, "/capabilities")
    about = next((each for each in _mappings(capable) if each.get("id") == model and "image_shape" in each), {})
    shape = about.get("image_shape")
    limits = capable.get("limits", {})
    return Served(
        model=model,
        size=None if shape is None else (int(shape[2]), int(shape[1])),
        subjects=_subjects(about),
        about=about,
        slots=limits.get("slots"),
    )


def _subjects(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    if about.get("classes"):
        return [{"labels": [label]} for label in range(int(about["classes"]))]
    return [{"prompt": PROMPT}] if about.get("conditions") == "prompts" else [{}]


def _mappings(document: Any) -> list[Mapping[str, Any]]:
    """Every object in a JSON document, at any depth; a server's own, so it is not deep."""
    if isinstance(document, Mapping):
        return [document, *(each for value in document.values() for each in _mappings(value))]
    return [each for value in document for each in _mappings(value)] if isinstance(document, list) else []


async def _said(session: "aiohttp.ClientSession", target: Target, path: str) -> dict[str, Any]:
    import aiohttp

    try:
        async with session.get(path, allow_redirects=False) as answer:
            text = await answer.content.read(MOST)
            if answer.status != 200:
                raise FewstepError(f"{target.url}{path}: answers {answer.status}: {text[:200]!r}")
            document = json.loads(text)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise FewstepError(f"{target.url}{path}: {type(error).__name__}: {error}") from error
    if not isinstance(document, dict):
        raise FewstepError(f"{target.url}{path}: no JSON object")
    return document

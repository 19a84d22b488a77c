"""One request of a load: sent, timed, and what came of it."""

import base64
import io
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fewstep.serve.load.traffic import Shot

if TYPE_CHECKING:
    import aiohttp

PATH = "/v1/images/generations"
REJECTED = (429, 503)  # there was no room, which is no failure of what was let in
MAX_BYTES = 256 << 20  # of an answer


@dataclass(frozen=True)
class Outcome:
    """What came of a shot. Times are seconds from the start of the run.

    Attributes:
        number: of the shot.
        steps_asked: None where they were left to the server.
        intended: when it was to be sent; of a closed loop, when it was.
        sent: when it was.
        ended: when its last byte had come.
        status: of HTTP; 0 where there was no answer.
        error: why there is no picture; None where there is one.
        preview: when its first partial image had come; None without one.
        retry_after: the server said when to ask again.
        steps: model calls that the picture was given.
        about: what the server says of the picture beyond OpenAI's fields.
        picture: the file.
    """

    number: int
    steps_asked: int | None
    intended: float
    sent: float
    ended: float
    status: int
    error: str | None = None
    preview: float | None = None
    retry_after: bool = False
    steps: int | None = None
    about: Mapping[str, Any] | None = None
    picture: bytes | None = None

    @property
    def rejected(self) -> bool:
        """The server had no room for it."""
        return self.status in REJECTED

    @property
    def latency(self) -> float:
        """Seconds from when it was to be sent to its end: what waits for its turn here has waited as well."""
        return self.ended - self.intended


class Client:
    """Sends shots over one session of aiohttp.

    Args:
        session: whose base is the server's address.
        clock: seconds since the start of the run.
    """

    def __init__(self, session: "aiohttp.ClientSession", clock: Callable[[], float] = time.perf_counter) -> None:
        self._session, self._clock = session, clock

    async def send(self, shot: Shot) -> Outcome:
        """Send a shot and wait for its end; whatever goes wrong is in the outcome."""
        import aiohttp

        sent = self._clock()
        intended = sent if shot.at is None else shot.at
        found: dict[str, Any] = {"status": 0}
        try:
            async with self._session.post(PATH, json=shot.body, allow_redirects=False) as answer:
                found["status"], found["retry_after"] = answer.status, "Retry-After" in answer.headers
                if answer.status != 200:
                    found["error"] = _message(await _all_of(answer))
                elif shot.body.get("stream"):
                    await self._listen(answer, found)
                else:
                    _taken(json.loads(await _all_of(answer))["data"][0], found)
        except TimeoutError:
            found["error"] = "no answer in time"
        except aiohttp.ClientError as error:
            found["error"] = f"{type(error).__name__}: {error}"
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            found["error"] = f"the answer is not understood: {type(error).__name__}: {error}"
        return Outcome(shot.number, shot.steps, intended, sent, self._clock(), **found)

    async def _listen(self, answer: "aiohttp.ClientResponse", found: dict[str, Any]) -> None:
        """Read a stream to its end."""
        found["error"] = "the stream ended without a picture"
        async for data in events(answer):
            kind = data.get("type", "")
            if kind.endswith(".partial_image"):
                found.setdefault("preview", self._clock())
            elif kind.endswith(".completed"):
                found["error"] = None
                _taken(data, found)
            elif "error" in data:
                found["error"] = str(data["error"].get("message"))


async def events(answer: "aiohttp.ClientResponse") -> AsyncIterator[dict[str, Any]]:
    """The data of each server-sent event that is a JSON object."""
    left, taken = b"", 0
    async for piece in answer.content.iter_any():
        taken += len(piece)
        if taken > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        *whole, left = (left + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in whole:
            lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines and lines != [b"[DONE]"]:
                yield json.loads(b"\n".join(lines))


def check_picture(file: bytes, size: tuple[int, int] | None) -> None:
    """Decode a picture.

    Raises:
        ValueError: it cannot be decoded, or is not of that width and height.
    """
    try:
        with Image.open(io.BytesIO(file)) as image:
            image.load()
            found = image.size
    except (OSError, SyntaxError) as error:
        raise ValueError(f"the picture cannot be decoded: {error}") from error
    if size is not None and found != size:
        raise ValueError(f"the picture is {found[0]}x{found[1]} instead of {size[0]}x{size[1]}")


def alike(file: bytes, other: bytes) -> float:
    """How near two pictures of one size are, as PSNR in dB: infinite where all pixels are equal."""
    first, second = (np.asarray(Image.open(io.BytesIO(each)).convert("RGB"), np.float64) for each in (file, other))
    error = float(np.mean((first - second) ** 2)) if first.shape == second.shape else math.inf
    return 10 * math.log10(255**2 / error) if error else math.inf


def _taken(data: Mapping[str, Any], found: dict[str, Any]) -> None:
    """The picture of an answer, and what is said of it."""
    about = data.get("fewstep") or {}
    found["picture"] = base64.b64decode(data["b64_json"], validate=True)
    found["about"], found["steps"] = about, about.get("steps")


async def _all_of(answer: "aiohttp.ClientResponse") -> bytes:
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
    return bytes(body)


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")

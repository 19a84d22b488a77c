"""JSON as the standard has it: no NaN, no number beyond a float, no name twice; anything else is refused in words."""

import json
import math
from typing import Any, NoReturn

from anyio import to_thread
from starlette.requests import Request

from fewstep.errors import printable
from fewstep.serve.http.wire.errors import ProblemError

SHORT = 64 << 10  # bytes that are read between two events of the loop; a longer text goes to a thread


async def read_object(request: Request) -> dict[str, Any]:
    """The object that the body of a request is."""
    body = await request.body()
    return parse_object(body) if len(body) <= SHORT else await to_thread.run_sync(parse_object, body)


def parse_object(body: bytes) -> dict[str, Any]:
    """The object in a text.

    Raises:
        ProblemError: 400, with what is wrong.
    """
    try:
        value = json.loads(
            body.decode(), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_each_once
        )
    except UnicodeDecodeError:
        raise ProblemError(400, "the body is not UTF-8", code="invalid_json") from None
    except RecursionError:
        raise ProblemError(400, "the body is nested too deep", code="invalid_json") from None
    except ValueError as error:
        raise ProblemError(400, f"the body is not JSON: {printable(str(error))[:200]}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ProblemError(400, f"the body is a {type(value).__name__}, not an object", code="invalid_json")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is larger than any float")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("an object has a name twice")
    if any("\ud800" <= character <= "\udfff" for name in made for character in name):
        raise ValueError("a name has half of a character")
    return made

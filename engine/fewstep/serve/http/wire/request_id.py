"""The name that a request goes by in answers, logs and cancellations."""

import re
import secrets
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

HEADER: Final = "x-request-id"
_SANE: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id(request: HTTPConnection) -> str:
    """The id of a request: what its client calls it, where that is a plain word, else one that is made."""
    state = request.scope.setdefault("state", {})
    if "request_id" not in state:
        given = Headers(scope=request.scope).get(HEADER, "")
        state["request_id"] = given if _SANE.fullmatch(given) else f"req_{secrets.token_hex(12)}"
    return str(state["request_id"])

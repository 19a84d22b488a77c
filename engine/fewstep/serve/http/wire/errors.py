"""Errors as OpenAI's clients know them: {"error": {message, type, param, code}}, with every status but 2xx."""

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from fewstep.checks import nearest
from fewstep.errors import ArgumentError, FewstepError, printable, shown
from fewstep.serve.events import Failed
from fewstep.serve.http.waiting import GoneError
from fewstep.serve.http.wire.request_id import request_id
from fewstep.serve.refusals import RefusedError

Type = Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]

CLIENT_GONE: Final = 499  # nobody reads it but the log
MAX_MESSAGE: Final = 2000  # characters
# By the reason of a `Failed`: the status, and whether the same request may do better another time.
FAILED: Final[Mapping[str, tuple[int, bool]]] = {
    "invalid": (400, False),
    "cancelled": (409, False),
    "non_finite": (500, False),
    "out_of_memory": (500, True),
    "worker": (500, True),
    "dead": (503, True),
    "deadline": (504, False),
}
REFUSED: Final[Mapping[str, int]] = {"full": 429, "late": 429, "starting": 503, "draining": 503, "dead": 503}
CODES: Final[Mapping[int, str]] = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "rate_limit_exceeded",
    500: "internal_error",
    503: "unavailable",
}


class ErrorBody(BaseModel):
    """What went wrong.

    Attributes:
        message: in words, naming what is allowed where something else was asked for.
        type: of which kind.
        param: which of the request's fields is to blame; null where none is.
        code: for a program, such as "unknown_field" or "full".
    """

    message: str
    type: Type
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """OpenAI's envelope."""

    error: ErrorBody


class ProblemError(Exception):
    """An error that is answered as it stands.

    Attributes:
        status: of HTTP.
        body: of the envelope.
        headers: beside it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.headers = status, dict(headers or {})
        text = printable(message)
        text = text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."
        named = None if param is None else printable(param)[:100]
        self.body = ErrorBody(message=text, type=_type(status), param=named, code=code or CODES.get(status))
        super().__init__(text)

    @property
    def envelope(self) -> dict[str, Any]:
        """As JSON."""
        return {"error": self.body.model_dump()}

    def response(self) -> Response:
        """As an answer."""
        return JSONResponse(self.envelope, self.status, self.headers)


def problem_of(error: BaseException) -> ProblemError | None:
    """An error as it is answered; None for one that is a defect of the server."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RefusedError):
        seconds = {} if error.retry_after is None else {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
        return ProblemError(REFUSED[error.why], str(error), code=error.why, headers=seconds)
    if isinstance(error, ArgumentError):
        return ProblemError(400, str(error), code="invalid_value", param=error.argument)
    if isinstance(error, FewstepError):
        return ProblemError(400, str(error))
    if isinstance(error, HTTPException):
        return ProblemError(error.status_code, str(error.detail), headers=error.headers)
    return None


def problem_of_failed(event: Failed) -> ProblemError:
    """What is answered where there will be no image."""
    status, again = FAILED[event.reason]
    code = {"invalid": "invalid_value", "deadline": "deadline_exceeded"}.get(event.reason, event.reason)
    # OpenAI's client asks again by itself after 409 and 5xx, unless it is told not to.
    headers = {} if again or status == 400 else {"x-should-retry": "false"}
    return ProblemError(status, event.message, code=code, param=event.argument, headers=headers)


def problem_of_fields(error: ValidationError, fields: type[BaseModel]) -> ProblemError:
    """The first of the fields that are not as they have to be."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = [str(part) for part in first["loc"]]
    name = where[0] if where else "body"
    if first["type"] == "extra_forbidden":
        near = nearest(fields.model_fields, name)
        meant = "" if near is None else f"; did you mean {near!r}?"
        return ProblemError(400, f"{name[:80]}: no such field{meant}", code="unknown_field", param=name)
    if first["type"] == "missing":
        return ProblemError(400, f"{name}: it has to be given", code="missing_field", param=name)
    why = str(first["msg"])
    message = f"{name}: got {shown(first['input'])}; {why[:1].lower()}{why[1:]}"
    return ProblemError(400, message, code="invalid_value", param=name)


def install_errors(app: FastAPI) -> None:
    """Answer every error of an application in the envelope."""

    async def known(request: Request, error: Exception) -> Response:
        return (problem_of(error) or defect(request)).response()

    async def unread(request: Request, error: Exception) -> Response:
        return ProblemError(400, "the request is not one that this path takes", code="invalid_value").response()

    async def unknown(request: Request, error: Exception) -> Response:
        return defect(request).response()

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    for kind in (ProblemError, FewstepError, HTTPException):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, unread)
    app.add_exception_handler(GoneError, gone)
    app.add_exception_handler(Exception, unknown)


def defect(request: Request) -> ProblemError:
    """What is answered for a defect: nothing of what happened inside, which the log has under the id."""
    name = request_id(request)
    return ProblemError(500, f"the server failed; its log says more of request {name}", headers={"x-request-id": name})


def _type(status: int) -> Type:
    if status in (401, 403):
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


Responses = dict[int | str, dict[str, Any]]

PROBLEMS: Final[Responses] = {
    status: {"model": ErrorEnvelope, "description": description}
    for status, description in {
        400: "Something in the request is not allowed; `param` says what.",
        401: "The key is missing or wrong.",
        404: "There is no such model or job.",
        408: "The body did not arrive in time.",
        409: "It was cancelled.",
        413: "The body is too large.",
        415: "The body is of a kind that is not read here.",
        429: "Too much waits, or the deadline cannot be met; see Retry-After.",
        431: "The headers are too large.",
        500: "The server failed.",
        503: "The server is starting, going down or without its device.",
        504: "The deadline passed.",
    }.items()
}
"""For the OpenAPI of a route."""


def problems(*statuses: int) -> Responses:
    """Some of them."""
    return {status: PROBLEMS[status] for status in statuses}

"""Forms as OpenAI's client sends them: text fields, lists as `name[]`, mappings as `name[key]`, and files."""

import json
import re
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.requests import Request

from fewstep.serve.http.wire.errors import ProblemError

MAX_FILES: Final = 4
MAX_FIELDS: Final = 100
TEXTS: Final = frozenset(
    {"model", "prompt", "negative_prompt", "sampler", "output_format", "size", "response_format", "fit"}
)
_PARTS: Final = re.compile(r"([^\[\]]+)(?:\[([^\[\]]*)\])?")


async def read_form(request: Request) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    """The fields of a form, with numbers and flags as JSON has them, and its files by name.

    Raises:
        ProblemError: 400, with what is wrong; 413 is Starlette's.
    """
    fields: dict[str, Any] = {}
    files: dict[str, list[bytes]] = {}
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS) as form:
        for said, value in form.multi_items():
            found = _PARTS.fullmatch(said)
            if found is None:
                raise ProblemError(400, f"{said[:80]}: no such field", code="unknown_field", param=said)
            name, key = found.groups()
            if isinstance(value, UploadFile):
                files.setdefault(name, []).append(await value.read())
            else:
                _put(fields, name, key, value)
    return fields, files


def _put(fields: dict[str, Any], name: str, key: str | None, text: str) -> None:
    value = text if name in TEXTS else _value(text)
    before = fields.get(name)
    if key:
        if not isinstance(before, dict | None):
            raise ProblemError(400, f"{name}: it is given in two ways", code="invalid_value", param=name)
        fields[name] = {**(before or {}), key: value}
    elif key == "" or isinstance(before, list):
        if not isinstance(before, list | None):
            raise ProblemError(400, f"{name}: it is given in two ways", code="invalid_value", param=name)
        fields[name] = [*(before or []), value]
    elif name in fields:
        if name != "labels" and name != "seeds":
            raise ProblemError(400, f"{name}: it is given twice", code="invalid_value", param=name)
        fields[name] = [before, value]
    else:
        fields[name] = value


def _value(text: str) -> Any:
    """A number, flag, list or mapping as JSON has them; any other text as it is."""
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) else value

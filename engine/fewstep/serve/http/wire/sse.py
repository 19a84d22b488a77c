"""Server-sent events."""

import json
from typing import Any, Final

HEARTBEAT: Final = b": still here\n\n"  # a comment, which clients skip and proxies count as life


def event(name: str, data: Any) -> bytes:
    """One event. Its data are JSON on one line, so nothing in them ends it."""
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False, separators=(',', ':'))}\n\n".encode()

"""Who called: so that a warning points at the line of a user, however deep it is found."""

import sys
from types import FrameType


def outside() -> int:
    """The `stacklevel`, for a warning in the function that asks, of the first caller that is not fewstep's own."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "fewstep":
        frame, level = frame.f_back, level + 1
    return level

"""Why an ask is not let in."""

from typing import Literal

from fewstep.errors import FewstepError

Why = Literal["full", "late", "starting", "draining", "dead"]


class RefusedError(FewstepError):
    """An ask that was not let in; nothing of it is kept.

    Attributes:
        why: "full": too many wait, "late": its deadline cannot be met, "starting": nothing is let in yet, "draining":
            nothing more is let in, "dead": the device is lost.
        retry_after: seconds after which it may be worth asking again; None where it is not.
    """

    def __init__(self, why: Why, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.why, self.retry_after = why, retry_after

"""Why a scheduler is not a plan."""


class RefusedError(Exception):
    """The reason, as what follows the scheduler's name in a sentence; `traced.trace` turns it into an ArgumentError."""

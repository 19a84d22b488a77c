"""OpenVINO, imported so that it tells nobody of it."""

import functools
import sys
from importlib import import_module
from typing import Any, Final

from fewstep.errors import reason_of
from fewstep.run.backends.backend import UnreadyError

TELEMETRY: Final = "openvino_telemetry"


def openvino_module() -> Any:
    """The package.

    It reports its import and every conversion to Google Analytics unless its user has opted out, and keeps a number for
    that in the home folder. It does neither where its telemetry cannot be imported, so it cannot be while OpenVINO is.
    Who has imported OpenVINO before has it as it is.

    Raises:
        UnreadyError: it is not installed, or broken.
    """
    if TELEMETRY in sys.modules:
        return _imported()
    sys.modules[TELEMETRY] = None  # type: ignore[assignment] # which Python reads as: not to be had
    try:
        return _imported()
    finally:
        del sys.modules[TELEMETRY]


@functools.cache
def core_of(openvino: Any) -> Any:
    """The openvino.Core that a process has, for good.

    The CPU's plugin gives the thread that first compiles with a core a stack for signal handlers, and when it is let go
    it puts back the one before it. Of several cores that would be the stack of one which is gone: the next Ctrl-C then
    ends the process by SIGSEGV.
    """
    return openvino.Core()


def _imported() -> Any:
    try:
        return import_module("openvino")
    except Exception as error:  # a broken install raises anything
        why = "not installed" if getattr(error, "name", None) == "openvino" else "cannot be imported"
        raise UnreadyError(f"{why} ({reason_of(error)}); pip install 'fewstep[cpu]' installs it") from error

"""What takes long is said before it is done, to the logger "fewstep"; the command line shows it beside its bar."""

import logging
from typing import Final

from torch import nn

LOGGER: Final = logging.getLogger("fewstep")
LARGE: Final = 30e6  # parameters, which OpenVINO compiles in about a second


def say(doing: str, module: nn.Module, more: str = "", least: float = 0.0) -> None:
    """A line such as "openvino: converting UNet, 35.7 million parameters", where it has as many as that.

    Args:
        doing: what is done, by whom.
        module: to what.
        more: what ends the line.
        least: parameters with which it takes long.
    """
    size = sum(each.numel() for each in module.parameters())
    if size >= least:
        LOGGER.info("%s %s, %.3g million parameters%s", doing, type(module).__name__, size / 1e6, more)

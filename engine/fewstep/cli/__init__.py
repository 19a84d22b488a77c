"""The command line: `fewstep generate | info | convert | bench | train | distill | evaluate`."""

from fewstep.cli.app import main

__all__ = ["main"]

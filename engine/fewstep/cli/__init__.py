"""The command line: `fewstep generate | info | convert | bench`."""

from fewstep.cli.app import main

__all__ = ["main"]

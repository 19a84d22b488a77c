"""A load generator for a server: what to ask, how often, and what came of it."""

from fewstep.serve.load.report import Report
from fewstep.serve.load.sending import run
from fewstep.serve.load.traffic import Traffic

__all__ = ["Report", "Traffic", "run"]

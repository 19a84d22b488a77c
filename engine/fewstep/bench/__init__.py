"""The benchmark: the engine beside the loops people write, on the same weights and noise, parity first.

A race is a `Subject` (one network) times cases (sampler, steps, batch) times contenders. First every case is checked:
the contenders' images must be those of the eager reference, a plan interpreted in plain torch. Then the contenders take
turns, in a new order each round, so that whatever else the machine does falls on all of them alike.
"""

from fewstep.bench.machine import describe_machine
from fewstep.bench.parity import TOLERANCE, ParityError
from fewstep.bench.race import Settings, run
from fewstep.bench.results import Report, Row
from fewstep.bench.subjects import NETWORKS, PRESETS, Subject, open_subject, own_subject

__all__ = [
    "NETWORKS",
    "PRESETS",
    "TOLERANCE",
    "ParityError",
    "Report",
    "Row",
    "Settings",
    "Subject",
    "describe_machine",
    "open_subject",
    "own_subject",
    "run",
]

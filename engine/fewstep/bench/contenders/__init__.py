"""Who races: each kind of contender is a racer, made for one network."""

from fewstep.bench.contenders.case import Case, plan_of
from fewstep.bench.contenders.contender import (
    BARE,
    BY_HAND,
    CHANNELS_LAST,
    COMPILE,
    DIFFUSERS,
    DTYPES,
    EAGER,
    ENGINE,
    FREEZING,
    KINDS,
    MAX_AUTOTUNE,
    ONNXRUNTIME,
    REDUCE_OVERHEAD,
    REGIONAL,
    Contender,
)
from fewstep.bench.contenders.diffusers import Diffusers
from fewstep.bench.contenders.engine import EngineRacer
from fewstep.bench.contenders.plain import Bare, Eager
from fewstep.bench.contenders.racer import Absent, Racer

# A kind that has no racer yet is named as missing, never left out.
RACERS: dict[str, type[Racer]] = {ENGINE: EngineRacer, EAGER: Eager, DIFFUSERS: Diffusers, BARE: Bare}

__all__ = [
    "BARE",
    "BY_HAND",
    "CHANNELS_LAST",
    "COMPILE",
    "DIFFUSERS",
    "DTYPES",
    "EAGER",
    "ENGINE",
    "FREEZING",
    "KINDS",
    "MAX_AUTOTUNE",
    "ONNXRUNTIME",
    "RACERS",
    "REDUCE_OVERHEAD",
    "REGIONAL",
    "Absent",
    "Case",
    "Contender",
    "Racer",
    "plan_of",
]

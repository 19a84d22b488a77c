"""Who races: each kind of contender is a racer, made for one network."""

from fewstep.bench.contenders.by_hand import ByHand
from fewstep.bench.contenders.case import Case, plan_of
from fewstep.bench.contenders.channels_last import ChannelsLast
from fewstep.bench.contenders.compiled import WAYS, Compiled
from fewstep.bench.contenders.contender import (
    BARE,
    BY_CALLS,
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
from fewstep.bench.contenders.engine import ByCalls, EngineRacer
from fewstep.bench.contenders.onnx import OnnxRuntime
from fewstep.bench.contenders.plain import Bare, Eager
from fewstep.bench.contenders.racer import Absent, Racer

RACERS: dict[str, type[Racer]] = {
    ENGINE: EngineRacer,
    BY_CALLS: ByCalls,
    EAGER: Eager,
    DIFFUSERS: Diffusers,
    CHANNELS_LAST: ChannelsLast,
    **dict.fromkeys(WAYS, Compiled),
    BY_HAND: ByHand,
    ONNXRUNTIME: OnnxRuntime,
    BARE: Bare,
}

__all__ = [
    "BARE",
    "BY_CALLS",
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
    "WAYS",
    "Absent",
    "Case",
    "Compiled",
    "Contender",
    "Racer",
    "plan_of",
]

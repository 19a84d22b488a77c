"""What a GPU has shown of the hand-written attention: data, which the results in benchmarks/results prove."""

from fewstep_kernels.ahead import Ahead

EXACT_WIDTHS: bool = True  # p v as wide as the head dim on sm_90; False: up to a multiple of 64
AHEAD: tuple[Ahead, ...] = ()

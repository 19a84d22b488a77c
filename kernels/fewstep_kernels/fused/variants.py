"""Every kernel in the forms it is launched in, described without a GPU, so that each can be compiled ahead of time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep_kernels.fused.guidance import cfg_combine_launches
from fewstep_kernels.fused.launch import Launch
from fewstep_kernels.fused.log_prob import step_log_prob_launch
from fewstep_kernels.fused.noising import add_noise_launch, normal_launch
from fewstep_kernels.fused.posterior import posterior_update_launch
from fewstep_kernels.fused.statistics import step_statistics_launch
from fewstep_kernels.fused.step import begin_step_launch, denoise_step_launch
from fewstep_kernels.operands import StepOperands
from fewstep_kernels.row import COLUMNS

POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
}
DIVISIBLE = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class Variant:
    """What triton.compile needs: `ASTSource(kernel, signature, constexprs, attrs)` and `options`.

    `vectorised` says that each tensor in it is contiguous and divisible, so that samples are read 128 bits at a time;
    otherwise `wide` has the names of those that are.
    `awaits` is that of its `Launch`.
    """

    name: str
    kernel: Any
    signature: dict[str, Any]
    constexprs: dict[tuple[int, ...], Any]
    attrs: dict[tuple[int, ...], list[list[Any]]]
    options: dict[str, Any]
    vectorised: bool
    awaits: tuple[str, ...] = ()
    wide: frozenset[str] = frozenset()


def variant(name: str, launch: Launch, vectorised: bool = False) -> Variant:
    """A launch as the compiler sees it: a size of 1 and None are constants, and multiples of 16 are known as such."""
    constexprs: dict[tuple[int, ...], Any] = {}
    attrs: dict[tuple[int, ...], list[list[Any]]] = {}

    def described(value: Any, place: tuple[int, ...]) -> Any:
        if isinstance(value, tuple):
            return tuple(described(each, (*place, index)) for index, each in enumerate(value))
        if isinstance(value, Tensor):
            attrs[place] = DIVISIBLE
            return POINTERS[value.dtype]
        if isinstance(value, float):
            return "fp32"
        if value is None or value == 1:
            constexprs[place] = value
            return "constexpr"
        if value % 16 == 0:
            attrs[place] = DIVISIBLE
        return "i32" if abs(value) < 2**31 else "i64"

    signature: dict[str, Any] = {}
    for index, argument in enumerate(launch.kernel.arg_names):
        if argument in launch.constants:
            signature[argument], constexprs[(index,)] = "constexpr", launch.constants[argument]
        else:
            signature[argument] = described(launch.arguments[argument], (index,))
    return Variant(name, launch.kernel, signature, constexprs, attrs, launch.options, vectorised, launch.awaits)


SAMPLES, LANES, STEPS = 3, 6, 8
EVEN, RAGGED = (4, 64, 64), (3, 21, 63)


def _tensor(*shape: int, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype, device="meta")
    return tensor.to(memory_format=torch.channels_last) if channels_last else tensor


def _integers(count: int = SAMPLES) -> Tensor:
    return _tensor(count, dtype=torch.int64)


def variants() -> list[Variant]:
    """Each kernel with each of its flags, for contiguous, channels-last and ragged samples in the dtypes it takes."""
    return [*_functional(), *_statistics(), *_log_prob(), *_steps()]


def _functional() -> Iterator[Variant]:
    seed, scale, row = _integers(), _tensor(SAMPLES), _tensor(SAMPLES, len(COLUMNS))
    for where, shape in (("even", EVEN), ("ragged", RAGGED)):
        yield variant(f"normal {where}", normal_launch(_tensor(SAMPLES, *shape), seed, seed, 1), where == "even")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        x, last = _tensor(SAMPLES, *EVEN, dtype=dtype), _tensor(SAMPLES, *EVEN, dtype=dtype, channels_last=True)
        for where, first in (("contiguous", x), ("mixed layouts", last)):
            vectorised = where == "contiguous"
            yield variant(f"add_noise {name} {where}", add_noise_launch(first, first, scale, scale, x), vectorised)
            rescale, combine = cfg_combine_launches(first, scale, first, x, scale, scale)
            yield variant(f"cfg_combine {name} {where}, rescale", rescale, vectorised)
            yield variant(f"cfg_combine {name} {where}", combine, vectorised)
            for z, v in ((None, None), (x, None), (x, x)):
                given = "" if z is None else ", noise" if v is None else ", noise, learned variance"
                launch = posterior_update_launch(first, first, x, x, row, z, v)
                yield variant(f"posterior_update {name} {where}{given}", launch, vectorised)


def _statistics() -> Iterator[Variant]:
    x, row, index = _tensor(SAMPLES, *EVEN), _tensor(SAMPLES, len(COLUMNS)), _integers()
    for dtype in (torch.float32, torch.bfloat16):
        for lanes in (SAMPLES, LANES):
            for gradient in (None, x):
                m = _tensor(lanes, *EVEN, dtype=dtype, channels_last=dtype == torch.bfloat16)
                launch = step_statistics_launch(_tensor(SAMPLES, 2), x, m, row, index, index, gradient)
                name = str(dtype).removeprefix("torch.")
                form = f"{'guided' if lanes > SAMPLES else 'one lane'}{', gradient' if gradient is not None else ''}"
                yield variant(f"step_statistics {name} {form}", launch)


def _log_prob() -> Iterator[Variant]:
    row, index = _tensor(SAMPLES, len(COLUMNS)), _integers()
    log_prob = _tensor(SAMPLES, STEPS + 1)
    optional = {"given noise": ("noise",), "inpainting": ("mask",), "learned variance": ("learned_variance",)}
    forms = {"by seed": (), **optional, "everything": ("noise", "mask", "learned_variance")}
    for where, shape in (("even", EVEN), ("ragged", RAGGED)):
        channels, *size = shape
        for form, asked in forms.items():
            given: dict[str, Any] = {
                "noise": _tensor(STEPS + 1, SAMPLES, *shape),
                "mask": _tensor(SAMPLES, 1, *size),
                "learned_variance": True,
            }
            m = _tensor(LANES, 2 * channels, *size, dtype=torch.bfloat16, channels_last=True)
            operands = (log_prob, m, row, index, index, index, channels)
            chosen = {name: value for name, value in given.items() if name in asked}
            yield variant(f"step_log_prob {where} {form}", step_log_prob_launch(*operands, **chosen))


def _steps() -> Iterator[Variant]:
    table, row = _tensor(SAMPLES, STEPS + 1, len(COLUMNS)), _tensor(SAMPLES, len(COLUMNS))
    index = _integers()
    for name, r in (("begin_step", None), ("begin_step second time", _tensor(LANES))):
        yield variant(name, begin_step_launch(table, index, row, index, _tensor(LANES), index, index, r))

    def step(
        shape: tuple[int, int, int] = EVEN,
        dtype: torch.dtype = torch.bfloat16,
        channels_last: bool = True,
        lanes: int = LANES,
        extra_channels: int = 0,
        depth: int = 0,
        **given: bool,  # operands by name that are there, and flags as they are
    ) -> Launch:
        channels, *size = shape
        x, inputs = _tensor(SAMPLES, *shape), channels + extra_channels
        outputs = channels * (1 + given.get("learned_variance", False))
        optional = {
            "preview": x,
            "statistics": _tensor(SAMPLES, 2),
            "noise": _tensor(STEPS + 1, SAMPLES, *shape),
            "gradient": x,
            "known": x,
            "mask": _tensor(SAMPLES, 1, *size),
        }
        plain = StepOperands(
            x=x,
            x_in=_tensor(lanes, inputs, *size, dtype=dtype, channels_last=channels_last),
            history=_tensor(depth, SAMPLES, *shape) if depth else None,
            preview=None,
            model_output=_tensor(lanes, outputs, *size, dtype=dtype, channels_last=channels_last),
            row=row,
            step=index,
            seed=index,
            cond_lane=index,
            uncond_lane=index,
        )
        chosen: dict[str, Any] = {name: optional.get(name, value) for name, value in given.items()}
        return denoise_step_launch(plain._replace(**chosen))

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for layout in ("contiguous", "channels-last"):
            launch = step(dtype=dtype, channels_last=layout == "channels-last")
            name = f"denoise_step {str(dtype).removeprefix('torch.')} {layout}"
            yield variant(name, launch, layout == "contiguous")
    forms: dict[str, dict[str, Any]] = {
        "one lane": {"lanes": SAMPLES},
        "deterministic": {"stochastic": False},
        **{f"history {depth}": {"depth": depth} for depth in (1, 2, 3, 4)},
        "learned variance": {"learned_variance": True},
        "preview": {"preview": True},
        "statistics": {"statistics": True},
        "given noise": {"noise": True},
        "gradient": {"gradient": True},
        "inpainting": {"known": True, "mask": True},
        "inpainting, deterministic": {"known": True, "mask": True, "stochastic": False},
        "inpainting, given noise": {"known": True, "mask": True, "noise": True},
        "extra input channels": {"extra_channels": 5},
    }
    everything = {
        "depth": 4, "learned_variance": True, "preview": True, "statistics": True, "gradient": True, "known": True,
        "mask": True,
    }  # fmt: skip
    forms |= {"everything": everything, "everything, given noise": everything | {"noise": True}}
    forms |= {"ragged": {"shape": RAGGED}, "ragged, everything": everything | {"shape": RAGGED}}
    for name, options in forms.items():
        yield variant(f"denoise_step {name}", step(**options))

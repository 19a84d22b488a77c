"""Who computes attention: the hand-written kernels, torch's own and its backends one by one, FlashAttention 3 and 4."""

import importlib
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from attention_cases import Case
from measure import TESTS
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fewstep_kernels import _ext, lay_out
from fewstep_kernels.attention import own_attention, torch_attention
from fewstep_kernels.attention_call import prepare, refusal
from fewstep_kernels.laid_out import keys_and_values
from fewstep_kernels.measured import EXACT_WIDTHS

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

OURS, TORCH = "ours", "torch"
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
# The modules that one or another distribution of each installs.
FLASH_ATTENTION = {"FA3": ("flash_attn_interface", "fa3_fwd_interface"), "FA4": ("flash_attn.cute",)}
UNTELLING = re.compile("not used because|runtime disabled")  # titles, and the backends that were not asked


class NotHereError(Exception):
    """A contender that this machine does not have, and why."""


@dataclass(frozen=True)
class Contender:
    """attend(q [B, Lq, H, D], k and v [B, Lk, H, D]) -> [B, Lq, H, D] contiguous.

    Attributes:
        is_ours: its result and its failure are checks of the report.
        laid_out: k and v are views of what `lay_out` made of them before the clock starts.
    """

    name: str
    attend: Attend
    is_ours: bool = False
    laid_out: bool = False

    def arguments(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As it wants them."""
        return (q, *keys_and_values(lay_out(k, v))) if self.laid_out else (q, k, v)


def contenders(case: Case, device: torch.device) -> list[Contender]:
    """All that a case is given to, torch's own first: what the others may err is measured by it."""
    found = [Contender(TORCH, torch_attention)]
    if case.is_cross:
        found.append(Contender(f"{TORCH}, laid out", torch_attention, laid_out=True))
    attend = own(device)
    if attend and (why_not := head_dim_refusal(device, case.D)):
        found.append(Contender(OURS, absent(why_not), is_ours=True))
    elif attend:
        found.append(Contender(OURS, attend, is_ours=True))
        if older := own_sm80(device):
            found.append(Contender(f"{OURS}, sm_80", older, is_ours=True))
        if case.is_cross:
            found.append(Contender(f"{OURS}, laid out", attend, is_ours=True, laid_out=True))
    found += [Contender(name, pinned(backend)) for name, backend in BACKENDS.items()]
    return found + [Contender(name, flash_attention(*modules)) for name, modules in FLASH_ATTENTION.items()]


def own_refusal(device: torch.device) -> str | None:
    """Why the hand-written kernels cannot run here; None if they can."""
    if device.type == "cuda":
        return _ext.device_refusal(torch.cuda.current_device())
    return None if shutil.which("g++") else "the emulator needs g++"


def head_dim_refusal(device: torch.device, D: int) -> str | None:
    """Why the hand-written kernels cannot run here at this head dim; the emulator has all."""
    return _ext.head_dim_refusal(D) if device.type == "cuda" else None


def absent(why_not: str) -> Attend:
    """What says so when it is called."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotHereError(why_not)

    return attend


def own(device: torch.device) -> Attend | None:
    """The hand-written kernel of the device; on a CPU that of sm_90a in the emulator."""
    if own_refusal(device):
        return None
    return own_attention if device.type == "cuda" else emulated(90)


def own_sm80(device: torch.device) -> Attend | None:
    """The kernel of sm_80, where there is `own` and the device's is a newer one."""
    if device.type != "cuda":
        return emulated(80)
    newer = torch.cuda.get_device_capability(device) == (9, 0)
    return (lambda q, k, v: own_attention(q, k, v, arch=80)) if newer else None


def simulation() -> Any:
    """The emulator, which the tests have."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    return importlib.import_module("support.simulation")


def emulated(arch: int, design: str = "") -> Attend:
    """A kernel in the emulator; in the design that the library chooses unless one is named."""
    simulate = simulation().simulate
    return lambda q, k, v: simulate(q, k, v, arch=arch, design=design or chosen_design())[0]


def chosen_design() -> str:
    """What the library asks of a kernel that is not named."""
    return "exact" if EXACT_WIDTHS else "padded"


def by_module(module: ModuleType, arch: int, design: str = "") -> Attend:
    """A kernel of another build than the library's, on the current stream."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if why_not := refusal(q, k, v):
            raise ValueError(why_not)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        multiprocessors = torch.cuda.get_device_properties(q.device).multi_processor_count
        stream = torch.cuda.current_stream(q.device).cuda_stream
        module.attention_fwd(*prepare(q, k, v, out, design=design or chosen_design()), multiprocessors, arch, stream)
        return out

    return attend


def pinned(backend: SDPBackend) -> Attend:
    """torch's scaled_dot_product_attention by one backend or not at all."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with warnings.catch_warnings(record=True) as told, sdpa_kernel(backend):
            warnings.simplefilter("always")
            try:
                return torch_attention(q, k, v)
            except RuntimeError as error:
                raise NotHereError(_refusal(error, [str(each.message) for each in told])) from None

    return attend


def _refusal(error: RuntimeError, told: list[str]) -> str:
    """torch warns of every backend it passes over; the error says only that none is left."""
    reasons = [each.split(" (Triggered")[0] for each in told if not UNTELLING.search(each)]
    return reasons[0] if reasons else str(error)


def flash_attention(*modules: str) -> Attend:
    """The `flash_attn_func` of the first of these modules that is installed."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found = _function(modules)(q, k, v)
        out: Tensor = found[0] if isinstance(found, tuple) else found  # some versions add the sum of exponentials
        return out

    return attend


def _function(modules: tuple[str, ...]) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    why_not = []
    for name in modules:
        try:
            attend: Callable[..., Tensor | tuple[Tensor, ...]] = importlib.import_module(name).flash_attn_func
        except Exception as error:  # an extension of another torch or CUDA may raise anything
            why_not.append(f"{name}: {type(error).__name__}")
        else:
            return attend
    raise NotHereError(f"not here ({', '.join(why_not)})")

"""Every hand-written attention kernel on small ragged shapes: what sanitizer.py runs under its tools.

    python benchmarks/exercise_attention.py       on an NVIDIA GPU; without one, in the emulator

Inputs are made and results looked at on the CPU, so that the tools see no kernel but these.
"""

import sys

import torch
from attention_contenders import Attend, own, own_refusal, own_sm80
from measure import NOT_RUN, ROOT

from fewstep_kernels import _ext

sys.path.append(str(ROOT / "csrc"))
import ninja_build

DONE = "every kernel has run"
ODD_HEAD_DIM = 72  # runs in the variant above, with columns of zeros
HALF_HEAD_DIM = 64  # float16 differs from bfloat16 by an instruction: one head dim shows it


def kernels(device: torch.device) -> list[Attend]:
    """That of the device and, where it is another, that for sm_80."""
    attend = own(device)
    return [each for each in (attend, own_sm80(device)) if each is not None] if attend else []


def shapes(device: torch.device) -> list[tuple[int, int, int]]:
    """Heads, queries, keys: few keys, and more; then so many tiles that a block on sm_90a is given several."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    return [(2, 67, 77), (2, 67, 100), (2, 67, 201), (2 * processors + 1, 67, 201)]


def head_dims(device: torch.device) -> tuple[int, ...]:
    """Those that the module was built with; the emulator has all."""
    module = _ext.extension().module if device.type == "cuda" else None
    return ninja_build.HEAD_DIMS if module is None else (*module.head_dims(),)


def exercise(device: torch.device) -> None:
    """Run them all."""
    variants = [(D, torch.bfloat16) for D in (*head_dims(device), ODD_HEAD_DIM)]
    for attend in kernels(device):
        for D, dtype in (*variants, (HALF_HEAD_DIM, torch.float16)):
            for H, Lq, Lk in shapes(device):
                generator = torch.Generator().manual_seed(D)
                q, k, v = (torch.randn(1, L, H, D, generator=generator).to(dtype).to(device) for L in (Lq, Lk, Lk))
                if not attend(q, k, v).cpu().isfinite().all():
                    raise RuntimeError(f"head dim {D}, {dtype}, {H} heads, {Lq} x {Lk}: not finite")
    print(DONE, flush=True)


def main() -> int:
    """On the first GPU, or on the CPU."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if why_not := own_refusal(device):
        print(why_not)
        return NOT_RUN
    exercise(device)
    return 0


if __name__ == "__main__":
    sys.exit(main())

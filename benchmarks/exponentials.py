"""How many powers of 2 a device finds in a second: a ceiling of attention, which needs one for each query and key."""

import torch
import triton
import triton.language as tl
from measure import Spread, timed

FIXED_POINT = 0.6411857445  # of x = 2^-x
BLOCK, TURNS = 1024, 256


@triton.jit
def _exponentials_kernel(out_ptr, TURNS: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = (offsets % 16).to(tl.float32) / 16
    for _ in range(TURNS):
        x = tl.exp2(-x)
    tl.store(out_ptr + offsets, x)


def exponential_rate(device: torch.device, dry_run: bool) -> Spread:
    """float32 powers of 2 a second, each found from the one before it."""
    blocks = 2 if dry_run else 64 * torch.cuda.get_device_properties(device).multi_processor_count
    out = torch.full((blocks * BLOCK,), float("nan"), device=device)
    found = timed(lambda: _exponentials_kernel[(blocks,)](out, TURNS, BLOCK), device, seconds=0.1, quick=dry_run)
    if not torch.allclose(out, torch.full_like(out, FIXED_POINT), rtol=1e-5):
        raise RuntimeError("a power of 2 is wrong")
    count = out.numel() * TURNS
    return Spread(count / found.median, count / found.high, count / found.low, found.repeats)

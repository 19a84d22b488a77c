"""The attention of real U-Nets, and the least time that a device could need for it."""

from dataclasses import dataclass

import torch
from measure import copy_bandwidth, matmul_rate
from torch import Tensor

from fewstep_kernels import reference

TEXT = 77  # tokens, what the text encoders of Stable Diffusion give


@dataclass(frozen=True)
class Case:
    """Sizes of one call, in bfloat16."""

    name: str
    B: int
    H: int
    Lq: int
    Lk: int
    D: int

    @property
    def is_cross(self) -> bool:
        """The keys are a text's, and stay as they are over a sample's steps."""
        return self.Lk != self.Lq

    @property
    def operations(self) -> int:
        """Of q k^T and p v."""
        return 4 * self.B * self.H * self.Lq * self.Lk * self.D

    @property
    def exponentials(self) -> int:
        """One for each query and key."""
        return self.B * self.H * self.Lq * self.Lk

    @property
    def bytes(self) -> int:
        """q, k and v read and the result written, 2 bytes an element."""
        return 4 * self.B * self.H * self.D * (self.Lq + self.Lk)

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Normal q [B, Lq, H, D], k and v [B, Lk, H, D]."""
        generator = torch.Generator(device).manual_seed(0)
        q, k, v = (
            torch.randn(self.B, L, self.H, self.D, generator=generator, device=device).to(torch.bfloat16)
            for L in (self.Lq, self.Lk, self.Lk)
        )
        return q, k, v


def pair(name: str, B: int, H: int, pixels: int, D: int) -> list[Case]:
    """The self-attention of a resolution, and the cross-attention to a text that follows it."""
    return [Case(f"{name} self", B, H, pixels, pixels, D), Case(f"{name} cross", B, H, pixels, TEXT, D)]


# A batch of two is one guided image; that of the pixel models is what fills a device.
CASES = (
    *pair("SD 64x64", 2, 8, 64 * 64, 40),
    *pair("SD 32x32", 2, 8, 32 * 32, 80),
    *pair("SD 16x16", 2, 8, 16 * 16, 160),
    *pair("SD 8x8", 2, 8, 8 * 8, 160),
    *pair("SDXL 64x64", 2, 10, 64 * 64, 64),
    *pair("SDXL 32x32", 2, 20, 32 * 32, 64),
    Case("ADM 32x32 self", 4, 6, 32 * 32, 32 * 32, 64),
    Case("ADM 16x16 self", 4, 9, 16 * 16, 16 * 16, 64),
    Case("ADM 8x8 self", 4, 12, 8 * 8, 8 * 8, 64),
    Case("CIFAR 16x16 self", 16, 1, 16 * 16, 16 * 16, 256),
    Case("digits 4x4 self", 16, 2, 4 * 4, 4 * 4, 48),
)
TINY = (Case("tiny self", 1, 2, 33, 33, 40), Case("tiny cross", 1, 2, 20, TEXT, 64))


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in float64, sample by sample: the logits of 4096 queries and keys are 1.3 GB for ten heads."""
    each = zip(q.double().split(1), k.double().split(1), v.double().split(1), strict=True)
    return torch.cat([reference.attention(*sample) for sample in each])


@dataclass(frozen=True)
class Ceilings:
    """What a device does in a second, measured on it."""

    operations: float
    exponentials: float
    bytes: float

    @classmethod
    def of(cls, device: torch.device, dry_run: bool) -> "Ceilings":
        """A large bfloat16 product, a chain of powers of 2, a large copy."""
        from exponentials import exponential_rate  # imports triton: after `script_options` has chosen how it runs

        measures = (matmul_rate, exponential_rate, copy_bandwidth)
        found = cls(*(measure(device, dry_run).median for measure in measures))
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return found

    def floor(self, case: Case) -> tuple[float, str]:
        """The longest of the three times that a case needs at least, in seconds; and which it is.

        A working set that stays in the cache may be faster than its bytes at the rate of a copy.
        """
        times = {
            "products": case.operations / self.operations,
            "exponentials": case.exponentials / self.exponentials,
            "bytes": case.bytes / self.bytes,
        }
        longest = max(times, key=times.__getitem__)
        return times[longest], longest

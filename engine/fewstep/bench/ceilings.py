"""What a machine does at most, measured on it beside the rows: large products of matrices, and large copies."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from fewstep.bench.contenders import DTYPES
from fewstep.bench.timed import Spread, once, timed

Rates = dict[str, float]  # "tflops": 1e12 operations a second; "gb_s": 1e9 bytes a second
BLOCK = 2**18  # random numbers, of which a large buffer is a repetition: drawing them all takes longer than copying
GPU_COUNT, GPU_SIDE = 2**29, 8192
CPU_SIDES = (128, 4096)  # of a square product: doubled until one takes a noticeable time
NOTICEABLE = 4e-3  # seconds
CACHES = 4  # a copy's source is so many times the last cache
CPU_BYTES = (2**26, 2**29)  # but within these
OFF = {"float32": 1e-5, "tf32": 2e-3, "bfloat16": 1e-2}  # the most that a product may be off, of all values


def copy_bandwidth(device: torch.device, quick: bool = False) -> Spread:
    """Bytes per second of a large copy, read and written ones counted; random data, several times the last cache.

    Raises:
        RuntimeError: the copy is not what was copied.
    """
    count = BLOCK if quick else GPU_COUNT if device.type == "cuda" else _cpu_bytes(device) // 4
    source = torch.randn(BLOCK, device=device).repeat(count // BLOCK)
    target = torch.full_like(source, float("nan"))
    found = timed(lambda: target.copy_(source), device, seconds=0.3 if device.type == "cuda" else 0.1, quick=quick)
    if not torch.equal(target, source):
        raise RuntimeError("a copy did not copy")
    return found.rate(2 * source.numel() * source.element_size())


def matmul_rate(device: torch.device, quick: bool = False, dtype: torch.dtype = torch.bfloat16) -> Spread:
    """Operations per second of a square product on random data, two for a multiply-add.

    A GPU's convolutions in float32 compute in TF32 unless torch is told otherwise, so its product does here as well.

    Raises:
        RuntimeError: the product is further from the exact one than its dtype explains.
    """
    with _as_convolutions(device) as tf32:
        side = 128 if quick else GPU_SIDE if device.type == "cuda" else _cpu_side(device, dtype)
        a, b = _factors(side, device, dtype)
        out = torch.full_like(a, float("nan"))
        seconds = 0.5 if device.type == "cuda" else 0.1
        found = timed(lambda: torch.mm(a, b, out=out), device, seconds=seconds, quick=quick)
    name = str(dtype).removeprefix("torch.")
    error = relative_error(out[:16], a[:16].double() @ b.double())
    if not error < OFF["tf32" if tf32 and name == "float32" else name]:
        raise RuntimeError(f"a {name} product is off by {error:.1e}")
    return found.rate(2 * side**3)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|, L2, in float64; nan where anything is not finite."""
    wide = exact.double()
    return float((found.double() - wide).norm() / wide.norm().clamp(min=torch.finfo(torch.float64).tiny))


def rates(device: torch.device, dtypes: Sequence[str], quick: bool = False) -> dict[str, Rates]:
    """Both rates for each of some dtypes, now: the medians of `matmul_rate` and of `copy_bandwidth`.

    No dtype is held to less than float32: where a CPU has no products in bfloat16, programs may compute in that.
    """
    copied = 1e-9 * copy_bandwidth(device, quick).median
    products = {
        name: 1e-12 * matmul_rate(device, quick, DTYPES[name]).median for name in dict.fromkeys(("float32", *dtypes))
    }
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {name: {"tflops": max(products["float32"], products[name]), "gb_s": copied} for name in dtypes}


def ceilings_of(before: Mapping[str, Rates], after: Mapping[str, Rates]) -> dict[str, dict[str, object]]:
    """By dtype the better of both rates, and both as they were: what the machine can do is the most that it did."""
    return {
        dtype: {**_better([first, after[dtype]]), "before": first, "after": after[dtype]}
        for dtype, first in before.items()
    }


def best(runs: Sequence[Mapping[str, Mapping[str, object]]]) -> dict[str, dict[str, object]]:
    """Of the ceilings of several runs by dtype, the better of each rate, and all of them as "runs"."""
    found: dict[str, list[Mapping[str, object]]] = {}
    for run in runs:
        for dtype, told in run.items():
            found.setdefault(dtype, []).append(told)
    return {
        dtype: dict(each[0]) if len(each) == 1 else {**_better(each), "runs": each} for dtype, each in found.items()
    }


def _better(many: Sequence[Mapping[str, object]]) -> Rates:
    return {name: max(float(str(each[name])) for each in many) for name in ("tflops", "gb_s")}


def _factors(side: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    return a, b


def _cpu_side(device: torch.device, dtype: torch.dtype) -> int:
    side, most = CPU_SIDES
    while side < most:
        a, b = _factors(side, device, dtype)
        torch.mm(a, b)
        if once(lambda a=a, b=b: torch.mm(a, b), device) > NOTICEABLE:  # type: ignore[misc]
            break
        side *= 2
    return side


def _cpu_bytes(device: torch.device) -> int:
    least, most = CPU_BYTES
    return min(max(CACHES * cache_bytes(device), least), most) // (4 * BLOCK) * (4 * BLOCK)


def cache_bytes(device: torch.device) -> int:
    """Of the last-level cache: a GPU's L2, or what Linux says of this CPU's; 32 MiB where it does not."""
    if device.type == "cuda":
        return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0))
    try:
        sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    except OSError:
        sizes = []
    units = {"K": 2**10, "M": 2**20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=2**25)


@contextmanager
def _as_convolutions(device: torch.device) -> Iterator[bool]:
    """Products in TF32 where convolutions are; whether they are."""
    if device.type != "cuda":
        yield False
        return
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32
    products.allow_tf32 = before or convolutions.allow_tf32
    try:
        yield products.allow_tf32
    finally:
        products.allow_tf32 = before

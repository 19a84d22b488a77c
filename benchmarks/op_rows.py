"""What the times of a case say: the columns of a contender's row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from measure import RAW, copy_bandwidth, matmul_rate
from op_cases import OpCase, short

from fewstep.bench.statistics import nearest_rank, ratio_interval


@dataclass(frozen=True)
class Ceilings:
    """What the device does at most, measured in this run.

    Attributes:
        copy: bytes that a large copy reads and writes in a second.
        products: operations of a large product in a second, by the dtype's name.
    """

    copy: float
    products: Mapping[str, float]

    @classmethod
    def of(cls, device: torch.device, dry_run: bool) -> "Ceilings":
        """As they are now."""
        dtypes = (torch.bfloat16, torch.float32)
        products = {short(dtype): matmul_rate(device, dry_run, dtype).median for dtype in dtypes}
        found = cls(copy_bandwidth(device, dry_run).median, products)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return found

    def better(self, other: "Ceilings") -> "Ceilings":
        """What a device can do is the most that it did."""
        products = {name: max(rate, other.products[name]) for name, rate in self.products.items()}
        return Ceilings(max(self.copy, other.copy), products)

    def shares(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Of a row with rates."""
        found = {}
        if "gb_s" in row:
            found["gb_s_share"] = 1e9 * row["gb_s"] / self.copy
        if "tflops" in row:
            found["tflops_share"] = 1e12 * row["tflops"] / self.products[row["dtype"]]
        return found


def described(case: OpCase) -> dict[str, Any]:
    """A case's columns."""
    return {"op": case.op, "place": case.place, "shape": "x".join(map(str, case.shape)), "dtype": short(case.dtype)}


def timing(times: Sequence[float], eager: Sequence[float]) -> dict[str, Any]:
    """A contender's times in microseconds, and its time over eager's in the same round; no sample is left out.

    The 95 % interval of the ratio is a bootstrap over the rounds of this run: another process may differ by more.
    """
    micro = [1e6 * each for each in times]
    found: dict[str, Any] = {"repeats": len(times), "min_us": min(micro), "median_us": median(micro)}
    found |= {f"p{percent}_us": nearest_rank(micro, percent) for percent in (90, 99)}
    found |= {"max_us": max(micro), "mean_us": fmean(micro)}
    if eager:
        ratios = [mine / theirs for mine, theirs in zip(times, eager, strict=True)]
        found |= dict(zip(("ratio", "ratio_low", "ratio_high"), ratio_interval([ratios]), strict=True))
    return found | {RAW: [round(each, 9) for each in times]}


def rates(moved: int, operations: int, seconds: float) -> dict[str, Any]:
    """What that is in a second; operations only where there are any."""
    found: dict[str, Any] = {"bytes": moved, "gb_s": moved / seconds / 1e9}
    return found | ({"operations": operations, "tflops": operations / seconds / 1e12} if operations else {})


def line(contender: str, row: Mapping[str, Any]) -> str:
    """A row on the screen, of at most 80 columns where it has been measured."""
    if row["status"] != "measured":
        return f"  {contender:<16}{row['status']}"
    text = f"  {contender:<16}{row['median_us']:9.1f} us, p99 {row['p99_us']:9.1f}  "
    if "tflops" in row:
        text += f"{row['tflops']:7.3f} TFLOP/s {row['tflops_share']:4.0%}"
    else:
        text += f"{row['gb_s']:7.1f} GB/s {row['gb_s_share']:7.0%}"
    return text + (f"  {row['ratio']:5.2f} x" if "ratio" in row else "")

"""The times of one piece of work by itself, as a device tells them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

WARM_UPS = 3
LEAST, MOST = 7, 300  # runs that count


@dataclass(frozen=True)
class Spread:
    """Times of the same work in seconds, or rates of it a second."""

    median: float
    low: float  # the 10th percentile
    high: float  # the 90th
    repeats: int

    @classmethod
    def of(cls, times: Sequence[float]) -> "Spread":
        """The three quantiles of some times."""
        quantiles = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
        low, median, high = torch.quantile(torch.tensor(times, dtype=torch.float64), quantiles).tolist()
        return cls(median, low, high, len(times))

    def rate(self, amount: float) -> "Spread":
        """The amount that each run does, over its time."""
        return Spread(amount / self.median, amount / self.high, amount / self.low, self.repeats)

    def us(self) -> dict[str, float]:
        """As columns of a table, in microseconds."""
        return {"us": 1e6 * self.median, "us_p10": 1e6 * self.low, "us_p90": 1e6 * self.high, "repeats": self.repeats}


def nothing() -> None:
    """What is done before a timed run that needs nothing."""


def timed(
    work: Callable[[], object],
    device: torch.device,
    before: Callable[[], object] = nothing,
    seconds: float = 0.15,
    quick: bool = False,
) -> Spread:
    """The times of `work` by the device's own events, each with an idle device before it; `before` is not counted.

    Three runs warm up; then at least 7 and at most 300, as many as fit into `seconds`. `quick`, for a dry run, takes 2.
    """
    warm_ups, least, most = (0, 2, 2) if quick else (WARM_UPS, LEAST, MOST)
    for _ in range(warm_ups):
        before()
        work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or (len(times) < most and time.perf_counter() < end):
        before()
        synchronize(device)
        times.append(once(work, device))
    return Spread.of(times)


def once(work: Callable[[], object], device: torch.device) -> float:
    """The seconds of one run: between two events of a GPU, by the host's clock elsewhere."""
    if device.type != "cuda":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return 1e-3 * float(start.elapsed_time(stop))


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

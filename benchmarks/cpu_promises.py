"""What fewstep promises of its backends on a CPU, and whether rows of cpu_backends.py keep it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Promise(NamedTuple):
    """One row's time over another's, in the same rounds, is at most so much."""

    network: str
    batch: int
    ours: tuple[str, str]  # contender, dtype
    theirs: tuple[str, str]
    most: float


PROMISES = (
    Promise("cifar10", 1, ("openvino", "float32"), ("diffusers", "float32"), 1 / 1.7),
    Promise("cifar10", 1, ("openvino", "bfloat16"), ("diffusers", "bfloat16"), 1 / 2),
    Promise("cifar10", 4, ("openvino", "float32"), ("diffusers", "float32"), 1 / 1.5),
    Promise("cifar10", 4, ("openvino", "bfloat16"), ("diffusers", "bfloat16"), 1 / 1.65),
    *(
        Promise("cifar10", batch, ("openvino", dtype), ("by hand", dtype), 1.05)
        for batch in (1, 4)
        for dtype in ("float32", "bfloat16")
    ),
    Promise("cifar10", 1, ("torch", "float32"), ("before", "float32"), 1 / 1.25),
    Promise("cifar10", 4, ("torch", "float32"), ("before", "float32"), 1 / 1.25),
    Promise("digits", 1, ("openvino", "float32"), ("before", "float32"), 0.4),
)


def kept(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each promise with its number; without one where a contender took no part."""
    return [_judged(promise, rows) for promise in PROMISES if any(row["network"] == promise.network for row in rows)]


def _judged(promise: Promise, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ours, theirs = (" ".join(each) for each in (promise.ours, promise.theirs))
    about = f"{promise.network}, batch {promise.batch}: {ours} over {theirs} at most {promise.most:.3f}"
    for row in rows:
        mine = (row["network"], row["batch"], row["contender"], row["dtype"])
        found = row.get(f"over {theirs}")
        if mine == (promise.network, promise.batch, *promise.ours) and found is not None:
            verdict = "met" if found <= promise.most else "MISSED"
            text = f"{verdict}: {about}; it is {found:.3f}, {1 / found:.2f} times as fast"
            return {**promise._asdict(), "found": found, "verdict": verdict, "text": text}
    return {**promise._asdict(), "found": None, "verdict": "not measured", "text": f"not measured: {about}"}

"""The op cases of `ops.py` under pytest-benchmark, its parity ahead of each: the first shape of every op.

The other shapes are marked long: `pytest benchmarks/ -m "long or not long"`. A sample is one call by the host's clock,
on a GPU up to the device's end, the last-level cache overwritten before it. The contenders do not take turns here: what
races them, and knows the device's own time, is `ops.py`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from measure import default_device, synchronize
from op_cases import OpCase, cases, short
from op_contenders import COMPILED, EAGER, OURS, Verdict, contenders
from op_parity import Parity
from op_work import Tensors, Work

ROUNDS, WARM_UPS = 30, 2


def chosen() -> Iterator[Any]:
    """Every case, by its name."""
    seen: set[str] = set()
    for case in cases(default_device()):
        marks = [pytest.mark.long] if case.op in seen else []
        seen.add(case.op)
        yield pytest.param(case, marks=marks, id=str(case))


@functools.lru_cache(maxsize=1)
def ready(case: OpCase, device: torch.device) -> tuple[Work, Parity]:
    """A case's tensors and what its results are compared with; those of one case at a time."""
    work = case.work(device)
    return work, Parity.of(work)


@pytest.mark.parametrize("contender", [OURS, EAGER, COMPILED])
@pytest.mark.parametrize("case", list(chosen()))
def test_op(case: OpCase, contender: str, device: torch.device, flush: Callable[[], object], benchmark: Any) -> None:
    with torch.no_grad():
        measured(case, contender, device, flush, benchmark)


def measured(case: OpCase, contender: str, device: torch.device, flush: Callable[[], object], benchmark: Any) -> None:
    """Parity, or the test fails; then the times."""
    work, parity = ready(case, device)
    call = contenders(work, compiles=contender == COMPILED)[contender]
    verdict = Verdict.of(contender, call, work, parity)
    if verdict.why_not or verdict.errors is None:
        pytest.fail(f"{case}, {contender}: {verdict.why_not}")

    def before() -> None:
        work.reset()
        flush()
        synchronize(device)

    def run() -> Tensors:
        found = call()
        synchronize(device)
        return found

    benchmark.group = str(case)
    benchmark.extra_info |= {
        "op": case.op,
        "place": case.place,
        "shape": list(case.shape),
        "dtype": short(case.dtype),
        "contender": contender,
        "bytes": work.bytes,
        "difference": verdict.errors.difference,
        "allowed": parity.allowed.difference,
    }
    benchmark.pedantic(run, setup=before, rounds=ROUNDS, warmup_rounds=WARM_UPS)
    if benchmark.stats is not None:  # which is None where nothing is to be timed, as beside xdist
        median = benchmark.stats.stats.median
        benchmark.extra_info["gb_s"] = work.bytes / median / 1e9
        if work.operations:
            benchmark.extra_info["tflops"] = work.operations / median / 1e12

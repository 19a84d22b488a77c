"""Small networks of `fewstep bench` under pytest-benchmark, with its cases, its racers and its parity ahead of each.

A sample is a whole run of a batch of one, from asking for it to the finished images. The contenders do not take turns
here: `fewstep bench` races them.
"""

import functools
import warnings
from typing import Any

import pytest
import torch
from measure import synchronize

from fewstep.bench import Subject, open_subject
from fewstep.bench.contenders import (
    BARE,
    BY_HAND,
    CHANNELS_LAST,
    COMPILE,
    DIFFUSERS,
    EAGER,
    ENGINE,
    ONNXRUNTIME,
    Absent,
    Case,
    Contender,
    Racer,
)
from fewstep.bench.lineup import lineup
from fewstep.bench.parity import Agreement, check
from fewstep.errors import PlanWarning

NETWORKS = {
    "digits, 1 step": ("digits", Case("ddim", 1, 1)),
    "digits, 4 steps": ("digits", Case("ddim", 4, 1)),
    "cifar10-ddpm, 1 step": ("cifar10-ddpm", Case("ddim", 1, 1)),
    "cifar10-ddpm, 4 steps": ("cifar10-ddpm", Case("ddim", 4, 1)),
}
BESIDE = (DIFFUSERS, CHANNELS_LAST, COMPILE, BY_HAND, ONNXRUNTIME, BARE)
CONTENDERS = [Contender(ENGINE), Contender(ENGINE, "openvino"), Contender(EAGER), *map(Contender, BESIDE)]
ROUNDS, WARM_UPS = 15, 1


@functools.lru_cache(maxsize=1)
def opened(network: str, device: str) -> Subject:
    """A network of the benchmark; one at a time."""
    name, case = NETWORKS[network]
    return open_subject(name, device, max_batch=case.batch, steps=case.steps)


def ready(network: str, contender: Contender, device: str) -> tuple[Racer, Agreement | None]:
    """Who races, and how far its images are from the reference's, if it has any.

    Raises:
        ParityError: an engine's images are not the reference's.
    """
    others = (contender.kind,) if contender.kind in BESIDE else ()
    known = lineup(opened(network, device), (contender.backend,), (contender.dtype,), others)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)  # nobody looks at the pictures
        agreed = check(known, NETWORKS[network][1])
    return known[contender], agreed.get(contender)


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
@pytest.mark.parametrize("network", list(NETWORKS))
def test_network(network: str, contender: Contender, device: torch.device, benchmark: Any) -> None:
    racer, agreement = ready(network, contender, device.type)
    measured(NETWORKS[network][1], racer, agreement, device, benchmark)


def measured(case: Case, racer: Racer, agreement: Agreement | None, device: torch.device, benchmark: Any) -> None:
    """Parity, or the test fails; then the times."""
    if why_not := racer.absent(case):
        pytest.skip(why_not)
    if agreement is not None and not agreement.holds:
        pytest.fail(f"wrong: {agreement.wrong(racer.contender, case)}")
    try:
        run = racer.run(case)
    except Absent as why:
        pytest.skip(str(why))

    def once() -> None:
        run(0)
        synchronize(device)

    benchmark.group = f"{racer.subject.engine.model.name}, {case}"
    benchmark.extra_info |= {
        "network": racer.subject.title,
        "weights": racer.subject.weights,
        "case": str(case),
        "contender": racer.contender.name,
    }
    if agreement is not None:
        benchmark.extra_info |= {"difference": agreement.difference, "allowed": agreement.allowed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)
        benchmark.pedantic(once, rounds=ROUNDS, warmup_rounds=WARM_UPS)

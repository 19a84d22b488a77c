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

from fewstep.bench import open_subject
from fewstep.bench.contenders import BARE, COMPILE, DIFFUSERS, EAGER, ENGINE, Absent, Case, Contender, Racer
from fewstep.bench.lineup import Lineup, lineup
from fewstep.bench.parity import Agreement, check
from fewstep.errors import PlanWarning

NETWORKS = {
    "digits, 1 step": ("digits", Case("ddim", 1, 1)),
    "digits, 4 steps": ("digits", Case("ddim", 4, 1)),
    "cifar10-ddpm, 1 step": ("cifar10-ddpm", Case("ddim", 1, 1)),
    "cifar10-ddpm, 4 steps": ("cifar10-ddpm", Case("ddim", 4, 1)),
}
CONTENDERS = {
    each.name: each
    for each in (
        Contender(ENGINE),
        Contender(ENGINE, "openvino"),
        Contender(EAGER),
        Contender(DIFFUSERS),
        Contender(COMPILE),
        Contender(BARE),
    )
}
ROUNDS, WARM_UPS = 15, 1


@functools.lru_cache(maxsize=1)
def ready(network: str, device: str) -> tuple[Lineup, dict[Contender, Agreement]]:
    """All who race on a network, once their images have been compared with the reference's; one network at a time."""
    name, case = NETWORKS[network]
    known = lineup(open_subject(name, device, max_batch=case.batch, steps=case.steps))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)  # nobody looks at the pictures
        return known, check(known, case)


@pytest.mark.parametrize("contender", list(CONTENDERS))
@pytest.mark.parametrize("network", list(NETWORKS))
def test_network(network: str, contender: str, device: torch.device, benchmark: Any) -> None:
    known, agreed = ready(network, device.type)
    measured(NETWORKS[network][1], known[CONTENDERS[contender]], agreed, device, benchmark)


def measured(
    case: Case, racer: Racer, agreed: dict[Contender, Agreement], device: torch.device, benchmark: Any
) -> None:
    """Parity, or the test fails; then the times."""
    if why_not := racer.absent(case):
        pytest.skip(why_not)
    agreement = agreed.get(racer.contender)
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

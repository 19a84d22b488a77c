"""The Triton kernel that begins a step is its twin to the bit: rows, indices, and the times of every lane."""

import pytest
import torch

from fewstep_kernels import COLUMNS, fused, reference
from support.devices import KERNEL_DEVICES

pytestmark = pytest.mark.slow


@pytest.fixture(params=KERNEL_DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("second_time", [False, True], ids=["t alone", "t and r"])
@pytest.mark.parametrize("slots", [1, 3, 70], ids=["one slot", "three slots", "more slots than a tile"])
def test_begin_step_gathers_each_slots_row_and_stops_at_the_idle_one(
    device: str, slots: int, second_time: bool
) -> None:
    table = torch.randn(slots, 4, len(COLUMNS), generator=torch.Generator().manual_seed(0))
    at = torch.arange(slots) % 5
    cond_lane, uncond_lane = torch.randperm(2 * slots, generator=torch.Generator().manual_seed(1)).view(2, slots)
    uncond_lane[::2] = cond_lane[::2]
    wanted, got = (
        [
            table.to(device), at.clone().to(device), torch.full((slots, len(COLUMNS)), float("nan"), device=device),
            torch.full((slots,), -1, device=device), torch.full((2 * slots,), -5.0, device=device),
            cond_lane.to(device), uncond_lane.to(device),
            *([torch.full((2 * slots,), -7.0, device=device)] if second_time else []),
        ]
        for _ in range(2)
    )  # fmt: skip
    for _ in range(3):
        reference.begin_step(*wanted)
        fused.begin_step(*got)
        for mine, theirs in zip(got, wanted, strict=True):
            assert torch.equal(mine, theirs)

"""A producer and two consumers with every instruction of sm_90: right in every order, and each bug is reported."""

import pytest
import torch

from support import sm90_cases as cases
from support.sm90_cases import probes

pytestmark = pytest.mark.slow

# In the order of `Bug` in tests/csrc/sm90_pipeline.h.
BUGS = {
    "no wait for full": "race: wgmma reads .*(is in flight|written by TMA with no wait)",
    "no wait for empty": "mbarrier: one arrival more|race: a TMA load writes",
    "empty before the wait": "race: a TMA load writes .* while wgmma or a TMA store reads it",
    "one warp tells for four": "race: a TMA load writes .* read by wgmma of warpgroup . with no barrier between",
    "the parity stays": "mbarrier: one arrival more|race: a TMA load writes",
    "no proxy fence before the store": "race: a TMA store reads .* with no fence.proxy.async between",
    "no barrier before the store": "race: a TMA store reads .* with no barrier between",
    "the wait names other accumulators": "in flight: |unfinished products: ",
}


@pytest.mark.parametrize("keys", [64, 128, 5 * 2 * 64, 600])
def test_a_pipeline_over_five_turns_of_its_stages_is_right_in_every_order(keys: int) -> None:
    q, k, v = (each.float() for each in cases.pipeline_operands(keys))
    expected, tiles = (q @ k.T @ v).bfloat16(), -(-keys // 64)
    for seed in range(5):
        out, did = probes(seed).pipeline(keys)
        assert torch.equal(out, expected)
        assert did == {
            "wgmma": 2 * tiles * 8,
            "multiply_accumulates": 2 * 128 * 64 * 64 * tiles,
            "boxes": 2 + 2 * tiles + 2,
            "box_bytes": 8192 * (4 + 2 * tiles),
        }


@pytest.mark.parametrize("bug", BUGS)
def test_a_pipeline_with_a_bug_is_reported_in_every_order(bug: str) -> None:
    for seed in range(5):
        with pytest.raises(RuntimeError, match=f"^(?:{BUGS[bug]})"):
            probes(seed).pipeline(600, 1 + list(BUGS).index(bug))

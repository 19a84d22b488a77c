"""The normals that numpy draws are the twin's, bit for bit."""

import pytest
import torch

from fewstep_kernels import STREAM_INITIAL, STREAM_STEP, reference
from fewstep_kernels.host_noise import host_normal

SHAPES = {
    "one element": (1, 1, 1),
    "digits": (1, 32, 32),
    "63x21": (2, 63, 21),
    "latents": (4, 64, 64),
    "odd": (3, 7, 5),
}
SEEDS = [0, 5, -1, 2**40 + 3, -(2**63), 2**63 - 1]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("stream", [STREAM_INITIAL, STREAM_STEP])
@pytest.mark.parametrize("count", [1, 6])
def test_every_bit_is_the_twins(shape: tuple[int, int, int], stream: int, count: int) -> None:
    seeds, steps = SEEDS[-count:], [3 * i for i in range(count)]
    expected = reference.normal(torch.tensor(seeds), torch.tensor(steps), stream, shape)
    found = host_normal(seeds, steps, stream, shape)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)

"""The normals that numpy draws are the twin's, bit for bit."""

import subprocess
import sys
from pathlib import Path

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


ALONE = """
import os, sys, time
import torch
from fewstep_kernels.host_noise import host_normal

def spent():  # ns of all threads but this one
    others = [each for each in os.listdir("/proc/self/task") if each != str(os.getpid())]
    return sum(int(open(f"/proc/self/task/{each}/schedstat").read().split()[0]) for each in others)

torch.set_num_threads(2)
torch.rand(2**20).add_(1)  # there is a second thread
found = []
for draw in (lambda: torch.rand(2**20).add_(1), lambda: host_normal([3] * 5, [0] * 5, 0, (3, 64, 64))):
    time.sleep(0.1)
    before = spent()
    for _ in range(10):
        draw()
        time.sleep(0.002)
    time.sleep(0.1)
    found.append(spent() - before)
print(*found)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux tells what a thread has spent")
def test_it_wakes_no_other_thread() -> None:
    """torch's threads wait busily after work that they share, and a backend's own threads then lack their cores."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    shared, noise = map(int, done.stdout.split())
    assert shared > 0
    assert noise < shared / 100

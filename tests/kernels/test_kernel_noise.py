"""Philox and the normals made from it: known answers, and a function of (seed, step, stream, element) alone."""

import math

import pytest
import torch

from fewstep_kernels import STREAM_INITIAL, STREAM_STEP, normal
from fewstep_kernels.philox import philox4x32

SHAPES = {
    "one element": (1, 1, 1),
    "a picture": (3, 32, 32),
    "63x21": (2, 63, 21),
    "five elements": (5, 1, 1),
}


def philox_by_hand(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds with Python's integers, straight from the paper's figure."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [second >> 32 ^ c[1] ^ k[0], second & 0xFFFFFFFF, first >> 32 ^ c[3] ^ k[1], first & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        pytest.param([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8", id="zeros"),
        pytest.param([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd", id="ones"),
        pytest.param(
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
            id="digits of pi",
        ),
    ],
)
def test_philox_gives_the_known_answers(counter: list[int], key: list[int], answer: str) -> None:
    """The test vectors published with Random123."""
    words = philox4x32(torch.tensor(counter)[:, None], torch.tensor(key)[:, None])
    assert " ".join(f"{int(word):08x}" for word in words) == answer
    assert " ".join(f"{word:08x}" for word in philox_by_hand(counter, key)) == answer


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_element_is_box_muller_of_its_own_counter(shape: tuple[int, int, int]) -> None:
    seed, step = 2**63 + 12345, 7
    z = normal(torch.tensor([seed - 2**64]), torch.tensor([step]), STREAM_STEP, shape).flatten()
    for element in {0, 1, 2, 3, len(z) // 2, len(z) - 1} & set(range(len(z))):
        words = philox_by_hand([element // 4, step, STREAM_STEP, 0], [seed & 0xFFFFFFFF, seed >> 32])
        first, second = words[element % 4 // 2 * 2 :][:2]
        turns = (second - 2**32 if second >= 2**31 else second) / 2**32
        radius = math.sqrt(-2 * math.log(first / 2**32 + 2**-33))
        expected = radius * (math.sin(2 * math.pi * turns) if element % 2 else math.cos(2 * math.pi * turns))
        assert float(z[element]) == pytest.approx(expected, abs=2e-6)


def test_a_samples_noise_does_not_depend_on_its_batch() -> None:
    seeds, steps = torch.tensor([5, 17, 2**62, 0]), torch.tensor([3, 0, 1, 2])
    together = normal(seeds, steps, STREAM_INITIAL, (3, 63, 21))
    for slot in range(4):
        alone = normal(seeds[slot : slot + 1], steps[slot : slot + 1], STREAM_INITIAL, (3, 63, 21))
        assert torch.equal(alone[0], together[slot])


@pytest.mark.parametrize("changed", ["seed", "high word of the seed", "step", "stream"])
def test_seeds_steps_and_streams_are_independent(changed: str) -> None:
    seed, step, stream = 1, 0, STREAM_INITIAL
    first = normal(torch.tensor([seed]), torch.tensor([step]), stream, (1, 256, 256)).flatten()
    seed = {"seed": 2, "high word of the seed": 1 + 2**32}.get(changed, seed)
    step, stream = (1 if changed == "step" else step), (STREAM_STEP if changed == "stream" else stream)
    second = normal(torch.tensor([seed]), torch.tensor([step]), stream, (1, 256, 256)).flatten()
    correlation = float(torch.corrcoef(torch.stack((first, second)))[0, 1])
    assert abs(correlation) < 4 / math.sqrt(len(first))


def test_the_noise_is_standard_normal() -> None:
    """Moments within five standard errors, and the Kolmogorov-Smirnov distance below its 0.1 % critical value."""
    z = normal(torch.arange(16), torch.zeros(16, dtype=torch.int64), STREAM_INITIAL, (4, 64, 64)).double().flatten()
    n = len(z)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((z**power).mean()) - moment) < 5 * math.sqrt(variance / n)
    cdf = 0.5 * (1 + torch.erf(z.sort().values / math.sqrt(2)))
    distance = (cdf - (torch.arange(n, dtype=torch.float64) + 0.5) / n).abs().max()
    assert float(distance) < 1.95 / math.sqrt(n)
    assert 4 < float(z.abs().max()) < 6.8


def test_neighbours_are_uncorrelated() -> None:
    z = normal(torch.tensor([11]), torch.tensor([0]), STREAM_INITIAL, (1, 512, 512)).flatten().double()
    for lag in (1, 2, 3, 4, 512):
        assert abs(float((z[:-lag] * z[lag:]).mean())) < 5 / math.sqrt(len(z))

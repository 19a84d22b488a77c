"""The Triton kernels of the noise: the twin's words bit for bit, its normals within two ulp, the same in any batch.

Without a GPU they run in Triton's interpreter; with one, `-m gpu` runs the same tests through its compiler.
"""

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from fewstep_kernels import STREAM_INITIAL, STREAM_STEP, reference
from fewstep_kernels.fused import add_noise, normal
from fewstep_kernels.fused.launch import walk
from fewstep_kernels.fused.philox import _box_muller, random_words
from fewstep_kernels.philox import philox4x32
from support.devices import KERNEL_DEVICES

pytestmark = pytest.mark.slow

SHAPES = {
    "one element": (1, 1, 1),
    "five elements": (5, 1, 1),
    "one tile exactly": (2, 16, 16),
    "63x21, several tiles": (2, 63, 21),
}
SEEDS = [0, 5, -3, 2**40 + 7, 2**63 - 1]


@pytest.fixture(params=KERNEL_DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@triton.jit
def _words_kernel(words_ptr, seed_ptr, step_ptr, counter_ptr, STREAM: tl.constexpr, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    words = random_words(tl.load(seed_ptr), tl.load(step_ptr), STREAM, tl.load(counter_ptr + lane))
    for word in tl.static_range(4):
        tl.store(words_ptr + word * BLOCK + lane, words[word].to(tl.int64))


@triton.jit
def _box_muller_kernel(z_ptr, u_ptr, v_ptr, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    u, v = tl.load(u_ptr + lane).to(tl.uint32), tl.load(v_ptr + lane).to(tl.uint32)
    cosine, sine = _box_muller(u, v)
    tl.store(z_ptr + lane, cosine)
    tl.store(z_ptr + BLOCK + lane, sine)


def assert_as_good(ours: Tensor, theirs: Tensor, exact: Tensor) -> None:
    """At most twice the error of the float32 twin against float64, plus one eps."""
    my_error, their_error = ((each.double() - exact).abs().max().item() for each in (ours, theirs))
    print(f"ours {my_error:.2e}, twin {their_error:.2e}")
    eps = torch.finfo(ours.dtype).eps
    assert my_error <= 2 * their_error + eps * max(1.0, exact.abs().max().item())


@pytest.mark.parametrize("step", [0, 7, 2**31 + 5])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_words_are_the_twins(device: str, seed: int, step: int) -> None:
    counters = torch.arange(64, device=device) * 33_333_333
    given = [torch.tensor([value], device=device) for value in (seed, step)]
    words = torch.full((4, 64), -1, device=device)
    _words_kernel[(1,)](words, *given, counters, STREAM=STREAM_STEP, BLOCK=64)
    rest = [torch.full_like(counters, value) for value in (step, STREAM_STEP, 0)]
    key = torch.tensor([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], device=device)[:, None]
    assert torch.equal(words, philox4x32(torch.stack((counters, *rest)), key))


def test_the_words_are_the_published_ones(device: str) -> None:
    words, zeros = torch.full((4, 4), -1, device=device), torch.zeros(4, dtype=torch.int64, device=device)
    _words_kernel[(1,)](words, zeros, zeros, zeros, STREAM=0, BLOCK=4)
    assert " ".join(f"{int(word):08x}" for word in words[:, 0]) == "6627e8d5 e169c58d bc57ac4c 9b00dbd8"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_normals_are_the_twins(device: str, shape: tuple[int, int, int]) -> None:
    seed, step = torch.tensor(SEEDS, device=device), torch.tensor([0, 7, 1, 2**20, 3], device=device)
    ours, theirs = normal(seed, step, STREAM_STEP, shape), reference.normal(seed, step, STREAM_STEP, shape)
    ulps = ((ours - theirs).abs() / (theirs.abs() * 2.0**-23)).nan_to_num(0).max()
    print(f"largest difference {ulps:.2f} ulp")
    assert ours.shape == theirs.shape
    assert ulps <= 2


def test_the_normals_are_exact_where_u_is_extreme(device: str) -> None:
    """Relative to float64, also where ln u is nearly 0: a logarithm with an absolute error fails here."""
    near_one = 2**32 - 2 ** torch.arange(32)
    u_words = torch.cat([torch.arange(32), near_one, torch.randint(2**32, (64,), generator=torch.manual_seed(0))])
    v_words = torch.arange(128) * 33_333_333
    z = torch.full((2, 128), float("nan"), device=device)
    _box_muller_kernel[(1,)](z, u_words.to(device), v_words.to(device), BLOCK=128)
    u = (u_words.float() * 2.0**-32 + 2.0**-33).double()
    v = ((v_words ^ 2**31) - 2**31).float().double() * 2.0**-32
    radius = torch.sqrt(-2 * torch.log(u))
    exact = torch.stack([radius * torch.cos(2 * torch.pi * v), radius * torch.sin(2 * torch.pi * v)])
    error = ((z.cpu().double() - exact).abs() / radius.clamp(min=1e-30)).max().item()
    print(f"largest error {error * 2**23:.2f} eps of the radius")
    assert error < 3 * 2.0**-23


def test_a_samples_noise_does_not_depend_on_its_batch(device: str) -> None:
    seed, step = torch.tensor(SEEDS, device=device), torch.tensor([0, 3, 0, 1, 2], device=device)
    together = normal(seed, step, STREAM_INITIAL, (2, 63, 21))
    assert torch.equal(together, normal(seed, step, STREAM_INITIAL, (2, 63, 21)))
    for slot in range(5):
        alone = normal(seed[slot : slot + 1], step[slot : slot + 1], STREAM_INITIAL, (2, 63, 21))
        assert torch.equal(alone[0], together[slot])


def test_the_bits_are_the_same_on_every_device(device: str) -> None:
    """What the interpreter drew, pinned: every operation is rounded as IEEE 754 says, on a CPU and on any GPU."""
    z = normal(torch.tensor([11, -12], device=device), torch.tensor([0, 1], device=device), STREAM_STEP, (3, 64, 64))
    weights = torch.arange(z.numel(), device=device) % 1009 + 1
    assert int((z.view(torch.int32).flatten() * weights).sum()) == 23038552791663


def test_seeds_and_steps_may_be_views(device: str) -> None:
    pairs = torch.arange(10, device=device).view(5, 2)
    ours = normal(pairs[:, 0], pairs[:, 1], STREAM_STEP, (1, 3, 3))
    assert torch.equal(ours, normal(pairs[:, 0].contiguous(), pairs[:, 1].contiguous(), STREAM_STEP, (1, 3, 3)))


@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "mixed", "cropped"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_add_noise_is_the_formula(device: str, dtype: torch.dtype, layout: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x_0, noise = (torch.randn(3, 2, 30, 21, generator=generator).to(device, dtype) for _ in range(2))
    if layout == "channels-last":
        noise = noise.to(memory_format=torch.channels_last)
    if layout in ("channels-last", "mixed"):
        x_0 = x_0.to(memory_format=torch.channels_last)
    if layout == "cropped":
        x_0, noise = x_0[:, :, 3:28, 1:20], noise[:, :, :25, :19]
    signal_scale, noise_scale = (torch.rand(3, generator=generator).to(device) for _ in range(2))
    ours = add_noise(x_0, signal_scale, noise_scale, noise)
    twin = reference.add_noise(x_0, signal_scale, noise_scale, noise)
    exact = reference.add_noise(*(each.double() for each in (x_0, signal_scale, noise_scale, noise)))
    assert_as_good(ours, twin, exact)
    assert ours.dtype == dtype
    assert ours.stride() == twin.stride()


def test_add_noise_takes_one_scale_for_all(device: str) -> None:
    x_0, noise = (torch.randn(3, 2, 5, 7, device=device) for _ in range(2))
    scales = [torch.tensor([value], device=device).expand(3) for value in (0.6, 0.8)]
    assert torch.equal(add_noise(x_0, *scales, noise), reference.add_noise(x_0, *scales, noise))


def test_float64_is_refused_by_name() -> None:
    x_0, scale = torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.ones(1)
    with pytest.raises(TypeError, match=r"x_0: got torch.float64; allowed: float32"):
        add_noise(x_0, scale, scale, x_0)


def test_memory_is_walked_in_as_few_dimensions_as_it_allows() -> None:
    plain = torch.empty(2, 3, 5, 7)
    last = plain.to(memory_format=torch.channels_last)
    assert walk(plain) == ((105,), [(105, 1)])
    assert walk(last) == ((3, 35), [(105, 1, 3)])
    assert walk(last, any_order=True) == ((105,), [(105, 1)])
    assert walk(plain, last) == ((3, 35), [(105, 35, 1), (105, 1, 3)])
    assert walk(plain[:, :, 1:4, 2:5]) == ((3, 3, 3), [(105, 35, 7, 1)])
    assert walk(plain, plain[:, :1].expand(-1, 3, -1, -1)) == ((3, 35), [(105, 35, 1), (105, 0, 1)])
    assert walk(torch.empty(2, 1, 1, 1)) == ((1,), [(1, 1)])

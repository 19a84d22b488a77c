"""A float64 network is float64 to the end: x, the images, and what it is told. The noise of a seed stays as it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep import EmbeddedGuidance, Engine, Image, Inpaint, Model, Numbers, schedules
from support.small import SHAPE, SmallNet, small_engine


class Third(nn.Module):
    """x / 3 + label / 3 + guidance / 7: numbers that 24 bits do not hold; it keeps the dtypes it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1 / 3, dtype=torch.float64))
        self.told: list[tuple[torch.dtype, ...]] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, guidance: Tensor) -> Tensor:
        self.told.append((x.dtype, t.dtype, labels.dtype, guidance.dtype))
        return self.scale * (x + labels[:, None, None, None]) + guidance[:, None, None, None] / 7


class Twice(nn.Module):
    """A decoder of its own dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.two = nn.Parameter(torch.tensor(2.0, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.two * x


def thirds(net: nn.Module, **options: Any) -> Engine:
    model = Model(
        net, schedule=schedules.linear(), shape=(1, 2, 2), prediction="x_0", conditions=Numbers(0, 1),
        guidance=EmbeddedGuidance(1, 4, 1.5), defaults={"sampler": "ddim", "steps": 3}, **options,
    )  # fmt: skip
    return Engine(model, device="cpu")


def test_a_whole_run_is_float64() -> None:
    """DDIM written out in numpy, from the float32 noise of the seed: the images agree to 1e-14."""
    net = Third()
    found = thirds(net).sample(labels=[0.1], guidance_scale=1.3, seeds=5)
    assert found.images.dtype == torch.float64
    assert set(net.told) == {(torch.float64,) * 4}
    assert found.labels == [0.1]
    assert found.guidance_scales == [1.3]
    noise = small_engine(device="cpu").samples(1, seeds=5)[0].start.x.flatten()[:4]
    assert noise.dtype == torch.float32
    x, plan = noise.double().numpy(), thirds(net).plan()
    for row in range(3):
        x_0 = (x + 0.1) / 3 + 1.3 / 7
        signal, scale = plan.levels.signal_scale[row : row + 2], plan.levels.noise_scale[row : row + 2]
        x = signal[1] * x_0 + scale[1] * (x - signal[0] * x_0) / scale[0]
    np.testing.assert_allclose(found.images.flatten().numpy(), x, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "decoder", [None, torch.float32, torch.float64], ids=["x", "float32 decoder", "float64 decoder"]
)
def test_images_have_the_dtype_of_x(dtype: torch.dtype, decoder: torch.dtype | None, tmp_path: Path) -> None:
    """Wherever they come from: a run, a part of one that was stopped, a session, a callback, a file."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    engine = small_engine(dtype=dtype, device="cpu", max_batch=2, decoder=None if decoder is None else Twice(decoder))
    found = engine.sample(2, seeds=0)
    assert found.images.dtype == wide
    found.save(tmp_path / "images.npy")
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "images.npy")), found.images)
    seen = []
    stopped = engine.sample(3, seeds=0, callback=lambda step: bool(seen.append((step.x.dtype, step.x_0.dtype))))
    assert seen[0] == (wide, wide)
    assert stopped.images.dtype == wide
    with engine.session(2) as session:
        slots = session.admit(*engine.samples(1, seeds=0))
        session.advance()
        assert session.take(slots[0]).values.dtype == wide
    assert engine.sample(1, seeds=0, output="uint8").images.dtype == torch.uint8


def test_the_dtype_that_is_asked_for_is_that_of_a_network_without_parameters() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x / 2

    for dtype in (torch.float64, torch.float32):
        engine = small_engine(Halves(), conditions=None, dtype=dtype, device="cpu")
        assert engine.dtype == engine.sample(1, seeds=0).images.dtype == dtype


@pytest.mark.parametrize("start", ["image", "inpaint"])
def test_images_that_are_handed_over_keep_their_digits(start: str) -> None:
    """A float64 start is not rounded to float32 on its way: where all is known, it comes out as it went in."""
    known = torch.full(SHAPE, 1 / 3, dtype=torch.float64)
    engine = small_engine(SmallNet().double(), device="cpu", prediction="x_0")
    if start == "inpaint":
        found = engine.sample(1, seeds=0, start=Inpaint(known, torch.zeros(SHAPE[1:])))
        assert torch.equal(found.images[0], known)
        (sample,) = engine.samples(1, seeds=0, start=Inpaint(known, known[:1]))
        assert sample.mask is not None
        assert torch.equal(sample.mask, known[:1])
        return
    kept = engine.samples(1, seeds=0, start=Image(known, 0.5))[0].start.x
    z = engine.samples(1, seeds=0)[0].start.x
    levels = engine.plan(strength=0.5).levels
    assert kept.dtype == torch.float64
    torch.testing.assert_close(kept, levels.signal_scale[0] * known + levels.noise_scale[0] * z, rtol=0, atol=1e-15)

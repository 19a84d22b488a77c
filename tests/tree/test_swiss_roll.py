"""The Swiss roll example, on a short training: it learns, its students follow their teachers, its pictures are made."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor

from support.tree import ROOT

EXAMPLE = ROOT / "examples/swiss_roll.py"


@pytest.fixture(scope="module")
def roll() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(EXAMPLE)))


@pytest.fixture(scope="module")
def data(roll: SimpleNamespace) -> Tensor:
    return roll.swiss_roll(5000, seed=0)


def test_the_roll_is_a_spiral_of_about_unit_size(roll: SimpleNamespace, data: Tensor) -> None:
    radius = data.flatten(1).norm(dim=1)
    assert 0.5 < float(radius.min()) < float(radius.max()) < 2.2
    assert float(data.std()) == pytest.approx(1.0, abs=0.2)
    assert torch.equal(data, roll.swiss_roll(5000, seed=0))


def test_a_step_with_the_target_lands_where_it_should(roll: SimpleNamespace) -> None:
    generator = torch.Generator().manual_seed(0)
    x, landed = (torch.randn(64, 2, 1, 1, generator=generator) for _ in range(2))
    for span in (1, 5, 20):
        t = torch.arange(64) % (40 - span + 1) + span - 1
        v = roll.target_v(x, t, landed, t - span)
        stepped = roll.ddim_step(lambda x, t, v=v: v, x, t, t - span)
        assert torch.allclose(stepped, landed, atol=1e-4)


def test_the_example_steps_as_the_engine_does(roll: SimpleNamespace) -> None:
    torch.manual_seed(0)
    network, noise = roll.Network(), torch.randn(5, 2, 1, 1)
    frames = roll.reverse_run(network, noise, 4)
    x = noise
    with torch.no_grad():
        for t in (39, 29, 19, 9):
            x = roll.ddim_step(network, x, torch.full((5,), t), torch.full((5,), t - 10))
    assert torch.allclose(frames[-1], x.flatten(1), atol=1e-5)


@pytest.mark.long
def test_a_short_training_learns_distills_and_draws(
    roll: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = roll.main(tmp_path / "out", teacher_batches=400, student_batches=100, count=500, frame_every=20)
    assert found["teacher, 40 steps"] < 3 * found["real"]
    assert found["student, 4 steps"] < 0.7 * found["teacher, 4 steps"]
    assert found["student, 1 step"] < 0.8 * found["teacher, 1 step"]
    assert "real-vs-real" in capsys.readouterr().out
    assert Image.open(tmp_path / "out/swiss_roll.png").width > 1000
    with Image.open(tmp_path / "out/swiss_roll.gif") as moving:
        assert moving.n_frames == 3


@pytest.mark.slow
def test_training_improves_the_loss_and_repeats_itself(roll: SimpleNamespace, data: Tensor) -> None:
    losses = []
    for _ in range(2):
        torch.manual_seed(1)
        _, found = roll.train_teacher(data, 200)
        losses.append(found)
    assert losses[0] == losses[1]
    assert sum(losses[0][-50:]) / 50 < 0.9 * sum(losses[0][:5]) / 5

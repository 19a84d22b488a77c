"""What is not finite stays where it is, reaches nothing that does not weigh it, and is told where it cannot be seen."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep import Classes, Engine, FewstepError, Inpaint, Model, NonFiniteWarning, Plan, Samples, schedules
from fewstep.bench import Subject, parity
from fewstep.bench.contenders import Case
from fewstep.bench.lineup import lineup
from fewstep.evaluate.frechet import Moments
from fewstep.train.folder import SHEETS, Sheets
from support.cli_case import SPEC
from support.small import SHAPE, SmallNet, small_engine


class Net(nn.Module):
    def __init__(self, answer: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.answer(x, t[:, None, None, None])


def engine_of(answer: Callable[[Tensor, Tensor], Tensor], **options: Any) -> Engine:
    settings = {"schedule": schedules.linear(), "shape": (1, 4, 4), "prediction": "v"}
    return Engine(Model(Net(answer), **(settings | options)), device="cpu")


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "lcm"])
def test_what_the_network_says_of_a_slot_that_was_left_changes_nobody(sampler: str) -> None:
    """A sample leaves after its first call; from then on the network answers its lanes with NaN and infinity."""

    class Leaves(nn.Module):
        calls = 0

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            self.calls += 1
            answer = 0.1 * x
            if self.calls > 1:
                answer[0, :, ::2], answer[0, :, 1::2] = torch.nan, torch.inf
            return answer

    engine = engine_of(lambda x, t: 0.1 * x)
    plans = [engine.plan(steps, sampler) for steps in (1, 3)]
    wanted = engine.sample(plan=plans, seeds=[0, 1]).images
    found = Engine(Model(Leaves(), schedule=schedules.linear(), shape=(1, 4, 4), prediction="v"), device="cpu")
    assert torch.equal(found.sample(plan=plans, seeds=[0, 1]).images, wanted)


def test_noise_that_no_row_draws_may_hold_anything() -> None:
    engine = small_engine(device="cpu")
    plans = [engine.plan(3, "ddpm"), engine.plan(3, "ddim")]
    noise = torch.randn(4, 2, *SHAPE, generator=torch.Generator().manual_seed(0))
    wanted = engine.sample(plan=plans, labels=[1, 2], noise=noise, seeds=0).images
    for plan, row in ((1, slice(1, 4)), (0, slice(3, 4))):  # DDIM draws none, and DDPM none in its last row
        noise[row, plan] = torch.nan
        assert torch.equal(engine.sample(plan=plans, labels=[1, 2], noise=noise, seeds=0).images, wanted)


def test_a_plan_that_begins_without_noise_takes_none() -> None:
    engine = small_engine(device="cpu")
    plan = engine.plan(2)
    zero = Plan(plan.sampler, plan.prediction, plan.levels, plan.rows, init_scale=0.0)
    wanted = engine.sample(plan=zero, labels=[1], noise=torch.zeros(1, *SHAPE)).images
    assert torch.equal(engine.sample(plan=zero, labels=[1], noise=torch.full((1, *SHAPE), torch.nan)).images, wanted)


def test_where_all_is_kept_the_picture_comes_out_whatever_the_network_says() -> None:
    engine = engine_of(lambda x, t: x * torch.nan)
    known = torch.full((1, 4, 4), 0.25)
    mask = torch.zeros(4, 4)
    mask[0, 0] = 1
    images = engine.sample(1, seeds=0, steps=1, start=Inpaint(known, mask)).images
    assert images[0, 0, 0, 0].isnan()
    assert torch.equal(images.flatten()[1:], torch.full((15,), 0.25))


def test_a_prediction_without_spread_is_not_rescaled() -> None:
    """A network of zeros, as one is before it has been trained: 0 / 0, where diffusers' images are NaN."""
    for shape in ((1, 4, 4), (1, 1, 1)):
        engine = engine_of(lambda x, t: x * 0, conditions=Classes(2, null=1), shape=shape)
        given: dict[str, Any] = {"labels": [0], "steps": 2, "guidance_scale": 2.0, "seeds": 0}
        rescaled = engine.sample(**given, guidance_rescale=0.7).images
        assert torch.isfinite(rescaled).all()
        assert torch.equal(rescaled, engine.sample(**given).images)


def broken(x: Tensor, t: Tensor) -> Tensor:
    """NaN in the second sample of two."""
    return x * torch.tensor([1.0, torch.nan])[: len(x), None, None, None]


def test_bytes_of_a_nan_are_gray_and_warned_of() -> None:
    engine = engine_of(broken)
    with pytest.warns(NonFiniteWarning, match=r"^sample 1 \(seed 8\): the image is not finite.*; what was NaN is gray"):
        found = engine.sample(2, seeds=7, output="uint8")
    assert found.finite == [True, False]
    assert found.images[1].unique().tolist() == [128]
    for convert in (found.numpy, found.pil, found.grid):
        with pytest.raises(FewstepError, match=r"^sample 1 \(seed 8\): the image is not finite"):
            convert()


def test_nothing_is_warned_of_where_nothing_is_hidden() -> None:
    """Not of floats, which show a NaN, nor of what was cancelled and has no image."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engine_of(broken).sample(2, seeds=7).images[1].isnan().all()
        engine_of(lambda x, t: x).sample(2, seeds=7, output="uint8")
        engine_of(broken).sample(2, seeds=7, output="uint8", callback=lambda step: False)


def test_files_name_all_the_samples_that_are_not_finite(tmp_path: Path) -> None:
    found = engine_of(lambda x, t: x * torch.nan).sample(12, seeds=3)
    with pytest.raises(FewstepError, match=r"^samples 0, 1, .*, 7, \.\.\. \(seeds 3, .*\): the images are not finite"):
        found.save(tmp_path / "out.png")
    with pytest.warns(NonFiniteWarning, match=r"out\.npy holds NaN or infinity"):
        found.save(tmp_path / "out.npy")
    assert np.isnan(np.load(tmp_path / "out.npy")).all()
    hidden = Samples(torch.zeros(1, 4, 4, 1, dtype=torch.uint8), [0], found.plan, finite=[False])
    with pytest.raises(FewstepError, match="not finite"):
        hidden.save(tmp_path / "hidden.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["out.npy"]


def test_a_sheet_of_what_is_not_finite_does_not_end_a_training(tmp_path: Path) -> None:
    class Breaks(SmallNet):
        def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return x * torch.nan

    sheets = Sheets(SPEC, None, tmp_path, "title", torch.device("cpu"), 4, lambda module, step: None)
    (tmp_path / SHEETS).mkdir()
    with pytest.warns(NonFiniteWarning, match="what was NaN is gray"):
        sheets.draw(Breaks(), 100)
    assert [path.name for path in (tmp_path / SHEETS).iterdir()] == ["step-00000100.png"]


def test_scores_of_what_is_not_finite_are_none() -> None:
    """max(0, nan) is 0 in Python: the best of all Frechet distances."""
    with pytest.raises(FewstepError, match="points: got values that are not finite"):
        Moments.of(torch.full((3, 2), torch.nan))


@pytest.mark.parametrize("compared", [(torch.nan, 0.0), (0.0, torch.nan)], ids=["given noise", "own noise"])
def test_parity_with_a_nan_is_none(compared: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """In either of two comparisons, of which the larger counts: Python's max passes over a NaN that comes second."""
    answers = iter(compared)
    monkeypatch.setattr(parity, "relative", lambda *_: next(answers))
    subject = Subject(engine_of(lambda x, t: x), "copies", {}, lacks_diffusers="not asked for")
    monkeypatch.setattr(parity, "_check_loop", lambda *_: None)
    with pytest.raises(parity.ParityError, match="differ by nan"):
        parity.check(lineup(subject, ["torch"], beside=[]), Case("ddim", 1, 1))


def test_equal_images_agree_and_what_is_not_finite_agrees_with_nothing() -> None:
    zero = torch.zeros(1, 1, 2, 2)
    assert parity.relative(zero, zero) == 0
    assert np.isnan(parity.relative(zero * torch.nan, zero * torch.nan))

"""A student beside its teacher: PSNR seed by seed, and the sheet of both."""

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep import Engine, Model, schedules
from fewstep.errors import ArgumentError
from fewstep.evaluate import Likeness, Settings, psnr
from fewstep.evaluate.run import teacher_plan, usual_steps, usual_teacher_steps
from fewstep.evaluate.sheets import Chosen, sheet, side_by_side
from fewstep.results import Samples
from support.small import SmallNet, small_engine

STUDENT = {"sampler": "ddim", "steps": [2]}


def test_psnr_is_that_of_pictures_of_256_values() -> None:
    """10 log10(255^2 / mse) of bytes, whatever range they are written in."""
    random = np.random.default_rng(0)
    a, b = (random.integers(0, 256, (6, 3, 5, 7)) for _ in range(2))
    expected = 10 * np.log10(255**2 / np.square(a - b).reshape(6, -1).mean(1))
    found = psnr(*(torch.from_numpy(each).double() / 127.5 - 1 for each in (a, b)))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    half = psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.02))
    assert float(half) == pytest.approx(40.0, abs=1e-4)


def test_equal_pictures_have_no_psnr_and_are_counted() -> None:
    a = torch.zeros(4, 1, 2, 2)
    b = a.clone()
    b[3] += 0.2
    likeness = Likeness.of(a, b)
    assert likeness.equal == 3
    assert likeness.median == math.inf
    assert json.loads(json.dumps(likeness.to_dict(), allow_nan=False)) == {
        "psnr_median": None,
        "psnr_quartiles": [None, None],
        "psnr_equal": 3,
        "psnr": [None, None, None, pytest.approx(20.0, abs=1e-4)],
    }


def test_median_and_quartiles_are_those_of_the_seeds() -> None:
    likeness = Likeness((9.0, 1.0, 5.0, 3.0, 7.0))
    assert (likeness.median, likeness.quartiles, likeness.equal) == (5.0, (3.0, 7.0), 0)
    assert Likeness((4.0,)).quartiles == (4.0, 4.0)


def test_sets_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"b: got \[2, 1, 2, 2\]; allowed: images like those of a, \[3, 1, 2, 2\]"):
        psnr(torch.zeros(3, 1, 2, 2), torch.zeros(2, 1, 2, 2))


@pytest.mark.parametrize(
    ("labels", "classes", "columns", "first"),
    [
        ([0, 1, 2] * 10, 3, 9, [0, 3, 6, 1, 4, 7, 2, 5, 8]),
        ([0, 1] * 3, 2, 10, [0, 1, 2, 3, 4, 5]),  # too few for five columns a class
        (None, None, 10, list(range(10))),
        (list(range(12)) * 2, 12, 10, list(range(10))),
    ],
    ids=["columns of classes", "few samples", "no classes", "many classes"],
)
def test_a_sheet_has_columns_of_classes(
    labels: list[int] | None, classes: int | None, columns: int, first: list[int]
) -> None:
    chosen = Chosen.of(labels, 30 if labels is None else len(labels), classes, (16, 16))
    assert chosen.columns == columns
    assert list(chosen.indices)[: len(first)] == first


def test_a_sheet_stays_within_its_pixels() -> None:
    assert Chosen.of(None, 100, None, (2000, 3000)) == Chosen(range(2), 1)


def test_the_teachers_row_is_above_the_students() -> None:
    plan = small_engine().plan()
    values = torch.linspace(-1, 1, 5)
    teacher = Samples(values[:, None, None, None].expand(5, 3, 40, 40), range(5), plan)
    student = Samples(-teacher.images, range(5), plan)
    page = Image.open(io.BytesIO(side_by_side(teacher, student, Chosen([4, 3, 0], 2))))
    assert page.size == (82, 172)  # two columns, 2 apart; two pairs of rows, 8 apart
    found = [page.getpixel((x, y))[0] for x, y in ((5, 5), (5, 47), (47, 5), (47, 47), (5, 95), (5, 137), (47, 95))]  # type: ignore[index]
    assert found == [255, 0, 191, 64, 0, 255, 255]
    small = Samples(teacher.images[:, :, :16, :16], range(5), plan)
    assert Image.open(io.BytesIO(side_by_side(small, small, Chosen([0], 1)))).size == (64, 130)
    assert Image.open(io.BytesIO(sheet(small, Chosen([0, 1], 2)))).size == (34, 16)


def test_a_teacher_walks_without_noise_at_the_guidance_of_its_student() -> None:
    teacher = small_engine(defaults={"sampler": "ddpm", "steps": 1000, "clip": 0.7})
    student = small_engine(defaults={"sampler": "ddim", "steps": 2, "guidance_scale": 3.0}, trained=STUDENT)
    plan, scale = teacher_plan(teacher, student, Settings(teacher_steps=8))
    assert (plan.sampler, len(plan), scale) == ("ddim", 8, 3.0)
    assert plan.column("clip").tolist() == [0.7] * 8
    assert plan.column("w").tolist() == [3.0] * 8
    assert not plan.column("s").any()
    noisy = small_engine(defaults={"sampler": "ddim", "steps": 4, "eta": 1.0})
    assert not teacher_plan(noisy, student, Settings(guidance_scale=1.0))[0].column("s").any()
    assert (usual_teacher_steps(teacher), usual_teacher_steps(student)) == (50, 2)
    assert (usual_steps(teacher), usual_steps(student)) == ([1, 2, 4, 8, 50], [2])
    short = Engine(Model(SmallNet(), schedule=schedules.linear(10), shape=(3, 8, 8)), device="cpu")
    assert (usual_steps(short), usual_teacher_steps(short)) == ([1, 2, 4, 8], 10)

"""loss.csv as somebody else left it: what makes no sense is passed over, and the picture is drawn all the same."""

import math
from pathlib import Path

import numpy as np
import pytest

from fewstep.train.folder import draw_losses
from fewstep.train.log import LossLog, plot_losses, smoothed

ROWS = "step,loss\n10,0.5\n20,0.25\n"


@pytest.mark.parametrize(
    ("content", "steps"),
    [
        (ROWS, [10, 20]),
        (ROWS.replace("0.5", "nan"), [20]),
        (ROWS.replace("0.5", "1e999"), [20]),
        (ROWS.replace("0.5", "1e300"), [20]),
        (ROWS.replace("10,", "-1,"), [20]),
        (ROWS.replace("10,", "1e300,"), [20]),
        (ROWS.replace("0.5", ""), [20]),
        (ROWS.replace("loss", "lost"), []),
        (ROWS.replace("step", "loss"), []),
        (ROWS.replace("0.5", "9" * 200_000), []),
        (ROWS.replace("0.5", "\0"), [20]),
        (",".join(map(str, range(150_000))) + "\n" + "1\n" * 150_000, []),
        ("", []),
    ],
    ids=[
        "sound", "NaN", "infinity", "no loss", "before the first step", "after the last", "empty", "no losses",
        "no steps", "long field", "NUL", "wide", "nothing",
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_passed_over(tmp_path: Path, content: str, steps: list[int]) -> None:
    (tmp_path / "loss.csv").write_text(content)
    log = LossLog(tmp_path / "loss.csv")
    log.read(1000)
    assert [row["step"] for row in log.rows] == steps


def test_a_title_is_no_formula(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "loss.csv").write_text(ROWS)
    assert draw_losses(tmp_path, r"a $\nosuchword$ run", 20) == 0.25
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_long_record_is_drawn_in_time() -> None:
    pytest.importorskip("matplotlib")
    assert plot_losses([{"step": float(i), "loss": 1.0} for i in range(150_000)], "long") is not None


@pytest.mark.parametrize("count", [1, 49, 75, 125, 1000, 1030], ids=lambda count: f"{count} rows")
def test_the_bold_line_is_the_mean_of_two_percent_of_the_rows(count: int) -> None:
    values = np.random.default_rng(0).uniform(0.1, 2.0, count)
    values[count // 3] = np.nan  # a column that a row lacks
    width = max(1, round(0.02 * count))
    expected = [values[max(0, i - width + 1) : i + 1].mean() for i in range(count)]
    np.testing.assert_allclose(smoothed(values.tolist()), expected, rtol=1e-12)
    assert sum(map(math.isnan, smoothed(values.tolist()))) == width


def test_a_loss_that_was_huge_once_leaves_the_later_means_alone() -> None:
    assert smoothed([1e29] * 100 + [1e-3] * 900)[200:] == pytest.approx([1e-3] * 800, rel=1e-12)


def test_the_bold_line_of_a_million_rows_takes_no_square_of_their_number() -> None:
    assert smoothed(range(1_000_000))[-1] == 1_000_000 - 1 - (20_000 - 1) / 2

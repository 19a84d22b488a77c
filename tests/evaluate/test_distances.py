"""Distances between sets, against closed forms and sets whose answer is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep.errors import ArgumentError
from fewstep.evaluate import Manifold, Moments, frechet_distance, nearest, precision, recall, sliced_wasserstein
from fewstep.evaluate import distances as distances_module
from fewstep.evaluate.frechet import square_root
from fewstep.evaluate.neighbours import NEAR, Nearness
from fewstep.evaluate.sliced_wasserstein import directions, wasserstein_1d


def gaussian(count: int, dimensions: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def covariance(dimensions: int, seed: int) -> Tensor:
    a = gaussian(dimensions, dimensions, seed)
    return a @ a.T + 0.1 * torch.eye(dimensions, dtype=torch.float64)


def test_the_frechet_distance_of_commuting_gaussians_is_the_closed_form() -> None:
    """Covariances Q diag(p) Q^T and Q diag(q) Q^T: |m_1 - m_2|^2 + sum (sqrt p - sqrt q)^2."""
    vectors, _ = torch.linalg.qr(gaussian(12, 12, 0))
    p, q = torch.linspace(0.01, 5.0, 12, dtype=torch.float64), torch.linspace(3.0, 0.1, 12, dtype=torch.float64)
    m_1, m_2 = gaussian(2, 12, 1)
    a, b = (Moments(m, (vectors * v) @ vectors.T) for m, v in ((m_1, p), (m_2, q)))
    expected = (m_1 - m_2).square().sum() + (p.sqrt() - q.sqrt()).square().sum()
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(float(expected), rel=1e-12)


def test_the_frechet_distance_is_the_published_formula_where_the_product_has_a_root() -> None:
    """tr (cov_a cov_b)^(1/2) is the sum of the square roots of the eigenvalues of cov_a cov_b."""
    zero = torch.zeros(6, dtype=torch.float64)
    a, b = covariance(6, 2), covariance(6, 3)
    roots = np.sqrt(np.linalg.eigvals((a @ b).numpy()).real).sum()
    expected = float(a.trace() + b.trace()) - 2 * roots
    assert frechet_distance(Moments(zero, a), Moments(zero, b)) == pytest.approx(expected, rel=1e-11)


def test_the_frechet_distance_of_samples_is_that_of_their_gaussians() -> None:
    a = 2.0 * gaussian(200_000, 3, 4) + torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    b = gaussian(200_000, 3, 5)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(1.0 + 3 * (2 - 1) ** 2, rel=0.02)


@pytest.mark.parametrize("count", [300, 20], ids=["full rank", "fewer points than features"])
def test_the_frechet_distance_of_a_set_to_itself_is_zero(count: int) -> None:
    points = 30 * gaussian(count, 64, 6)
    moments = Moments.of(points)
    assert frechet_distance(moments, Moments.of(points.flip(0))) < 1e-10 * float(moments.covariance.trace())


def test_a_square_root_squares_to_the_matrix() -> None:
    matrix = covariance(9, 7)
    assert torch.allclose(square_root(matrix) @ square_root(matrix), matrix, rtol=1e-12, atol=1e-12)


def test_moments_divide_by_one_less_than_the_count() -> None:
    points = gaussian(50, 4, 8)
    assert np.allclose(Moments.of(points).covariance.numpy(), np.cov(points.numpy().T), rtol=1e-12)
    assert Moments.of(points.float()).covariance.dtype == torch.float64


@pytest.mark.parametrize(
    ("a", "b"), [((1, 4), (5, 4)), ((5, 4), (5, 3))], ids=["one point", "features that do not match"]
)
def test_moments_that_cannot_be_compared_are_refused(a: tuple[int, int], b: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError):
        frechet_distance(Moments.of(torch.zeros(a)), Moments.of(torch.zeros(b)))


def line(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_precision_and_recall_of_constructed_sets() -> None:
    real, samples = line(0, 1, 2, 3, 4), line(0.5, 4.5, 5.5, 20, 21)
    # k = 1: each real ball has radius 1, so 0.5 and 4.5 are inside; the samples' radii are 4, 1, 1, 1, 1.
    assert precision(Manifold.of(real, k=1), samples) == 2 / 5
    assert recall(Manifold.of(samples, k=1), real) == 5 / 5
    # k = 2: real radii 2, 1, 1, 1, 2, so 5.5 is inside as well.
    assert precision(Manifold.of(real, k=2), samples) == 3 / 5


def test_a_point_on_the_edge_of_a_ball_is_inside() -> None:
    assert Manifold.of(line(-1, 0, 1), k=1).share_inside(line(2, 2.001)) == 1 / 2


def test_a_mode_that_is_missing_costs_recall_and_one_too_many_costs_precision() -> None:
    left, right = gaussian(400, 8, 9), gaussian(400, 8, 10) + 50
    both, one = torch.cat([left, right]), gaussian(800, 8, 11)
    assert precision(Manifold.of(both), one) > 0.8
    assert 0.4 < recall(Manifold.of(one), both) < 0.5
    assert 0.4 < precision(Manifold.of(one), both) < 0.5
    assert recall(Manifold.of(both), one) > 0.8


def test_a_set_covers_itself_and_a_far_one_not_at_all() -> None:
    points = gaussian(100, 5, 12) + 1000
    assert precision(Manifold.of(points), points) == recall(Manifold.of(points), points) == 1.0
    assert precision(Manifold.of(points), points + 100) == 0.0


def test_k_must_leave_a_neighbour() -> None:
    with pytest.raises(ArgumentError, match="k: got 5"):
        Manifold.of(gaussian(5, 2, 0), k=5)


def quantile_distance(a: Tensor, b: Tensor, points: int = 200_000) -> float:
    """The integral over u of |F_a^-1(u) - F_b^-1(u)|, by the midpoint rule."""
    u = (np.arange(points) + 0.5) / points
    gaps = [np.sort(s.numpy())[(u * len(s)).astype(int)] for s in (a, b)]
    return float(np.abs(gaps[0] - gaps[1]).mean())


@pytest.mark.parametrize(
    ("n", "m"), [(40, 40), (40, 60), (7, 13), (1, 5)], ids=["equal", "shared factor", "coprime", "one"]
)
def test_the_1d_distance_integrates_the_gap_of_the_quantiles(n: int, m: int) -> None:
    a, b = gaussian(n, 1, 13)[:, 0], 0.5 * gaussian(m, 1, 14)[:, 0] + 1
    assert float(wasserstein_1d(a, b)) == pytest.approx(quantile_distance(a, b), abs=1e-4)
    assert float(wasserstein_1d(a, b)) == pytest.approx(float(wasserstein_1d(b, a)), rel=1e-12)


def test_repeating_every_point_changes_no_1d_distance() -> None:
    a, b = gaussian(30, 1, 15)[:, 0], gaussian(20, 1, 16)[:, 0]
    assert float(wasserstein_1d(a.repeat(3), b.repeat(2))) == pytest.approx(float(wasserstein_1d(a, b)), rel=1e-12)


def test_the_sliced_distance_in_one_dimension_is_the_1d_distance() -> None:
    a, b = gaussian(50, 1, 17), gaussian(80, 1, 18) + 0.3
    assert sliced_wasserstein(a, b) == pytest.approx(float(wasserstein_1d(a[:, 0], b[:, 0])), rel=1e-12)


def test_the_sliced_distance_of_a_shift_is_its_mean_length_over_directions() -> None:
    """In the plane, mean |u . d| = 2 |d| / pi."""
    a = gaussian(100, 2, 19)
    shifted = a + torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert sliced_wasserstein(a, shifted, projections=4096) == pytest.approx(5 * 2 / math.pi, rel=0.02)
    assert sliced_wasserstein(a, a) == 0.0


def test_directions_are_unit_and_follow_from_the_seed() -> None:
    assert torch.allclose(directions(10, 3, 0).norm(dim=1), torch.ones(10, dtype=torch.float64))
    assert torch.equal(directions(10, 3, 0), directions(10, 3, 0))
    assert not torch.equal(directions(10, 3, 0), directions(10, 3, 1))


def test_sets_of_other_dimensions_have_no_sliced_distance() -> None:
    with pytest.raises(ArgumentError):
        sliced_wasserstein(torch.zeros(3, 2), torch.zeros(3, 4))


def test_no_distance_depends_on_the_order_of_the_points() -> None:
    a, b = gaussian(60, 4, 20), gaussian(50, 4, 21)
    mixed_a, mixed_b = (s[torch.randperm(len(s), generator=torch.Generator().manual_seed(1))] for s in (a, b))
    for x, y in ((mixed_a, b), (a, mixed_b)):
        assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(
            frechet_distance(Moments.of(a), Moments.of(b)), rel=1e-10
        )
        assert precision(Manifold.of(x), y) == precision(Manifold.of(a), b)
        assert recall(Manifold.of(y), x) == recall(Manifold.of(b), a)
        assert sliced_wasserstein(x, y) == pytest.approx(sliced_wasserstein(a, b), rel=1e-12)


def test_the_nearest_point_is_found_and_a_copy_has_distance_zero() -> None:
    points = torch.rand(500, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    queries = torch.cat([points[[17, 400]], points[:3] + 0.01])
    distance, index = nearest(queries, points)
    assert index.tolist() == [17, 400, 0, 1, 2]
    assert distance[:2].tolist() == [0.0, 0.0]
    assert distance[2:].tolist() == pytest.approx([0.08] * 3, rel=1e-4)


def test_blocks_change_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = gaussian(37, 6, 22), gaussian(41, 6, 23)
    whole = precision(Manifold.of(a), b), nearest(b, a)[1].tolist()
    monkeypatch.setattr(distances_module, "BLOCK_ELEMENTS", 100)
    assert (precision(Manifold.of(a), b), nearest(b, a)[1].tolist()) == whole


def test_nearness_counts_what_is_nearer_than_unseen_images_are() -> None:
    unseen = torch.linspace(1, 2, 1001, dtype=torch.float64)
    assert Nearness.of(unseen, unseen).share_near == pytest.approx(NEAR, abs=1e-3)
    copies = Nearness.of(torch.tensor([0.0, 0.0, 1.5, 1.6], dtype=torch.float64), unseen)
    assert copies.share_near == 0.5

"""Schedules and image-quality distances against formulas written with scipy and scikit-learn."""

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from sklearn.metrics.pairwise import polynomial_kernel

from utils.diffusion.metrics import frechet_distance, gaussian_of, kernel_distance, precision_recall
from utils.diffusion.schedules import NoiseSchedule


@pytest.mark.parametrize("num_timesteps", [1, 10, 200, 1000])
@pytest.mark.parametrize("start, end, tau", [(-3, 3, 1.0), (0, 3, 0.3), (-3, 3, 1.5)])
def test_sigmoid_schedule(num_timesteps, start, end, tau):
    """Jabri et al. 2022, appendix: gamma(u) = (s(end) - s(u)) / (s(end) - s(start))."""
    u = np.arange(num_timesteps + 1) / num_timesteps
    curve = scipy.special.expit((u * (end - start) + start) / tau)
    gamma = (curve[-1] - curve) / (curve[-1] - curve[0])
    schedule = NoiseSchedule.sigmoid(num_timesteps, start, end, tau)
    # The last beta would be 1; it is capped, so that alpha-bar ends near 0 instead of at 0.
    np.testing.assert_allclose(schedule.alphas_cumprod[:-1].numpy(), gamma[1:-1], rtol=1e-10)
    assert schedule.betas[-1] == pytest.approx(0.999)


def random_gaussian(rng, dim):
    root = rng.normal(size=(dim, 2 * dim))
    return rng.normal(size=dim), root @ root.T / (2 * dim)


@pytest.mark.parametrize("dim", [1, 2, 8, 64])
def test_frechet_distance_against_sqrtm(dim):
    rng = np.random.default_rng(dim)
    (mean_a, cov_a), (mean_b, cov_b) = random_gaussian(rng, dim), random_gaussian(rng, dim)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    tensors = (torch.tensor(x) for x in (mean_a, cov_a, mean_b, cov_b))
    assert frechet_distance(*tensors) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("m_a, s_a, m_b, s_b", [(0, 1, 0, 1), (1, 2, -1, 0.5), (3, 0.0, 0, 1)])
def test_frechet_distance_of_one_dimensional_gaussians(m_a, s_a, m_b, s_b):
    """In one dimension it is (m_a - m_b)^2 + (s_a - s_b)^2."""
    values = [torch.tensor(x, dtype=torch.float64) for x in ([m_a], [[s_a**2]], [m_b], [[s_b**2]])]
    assert frechet_distance(*values) == pytest.approx((m_a - m_b) ** 2 + (s_a - s_b) ** 2, abs=1e-9)


def test_frechet_distance_of_samples_uses_their_mean_and_unbiased_covariance():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 5)), rng.normal(1, 2, size=(60, 5))
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet_distance(*gaussian_of(torch.tensor(a)), *gaussian_of(torch.tensor(b))) == pytest.approx(
        expected, rel=1e-8
    )


def test_frechet_distance_of_degenerate_covariances_is_not_nan():
    """Fewer samples than dimensions: both covariances are singular."""
    a, b = torch.randn(5, 16), torch.randn(6, 16)
    assert frechet_distance(*gaussian_of(a), *gaussian_of(a)) == pytest.approx(0, abs=1e-6)
    assert 0 < frechet_distance(*gaussian_of(a), *gaussian_of(b)) < 1000


def test_kernel_distance_against_a_double_loop():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(7, 3)), rng.normal(0.5, 1.5, size=(5, 3))

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    def mean(pairs):
        return np.mean([kernel(x, y) for x, y in pairs])

    within_a = mean((a[i], a[j]) for i in range(7) for j in range(7) if i != j)
    within_b = mean((b[i], b[j]) for i in range(5) for j in range(5) if i != j)
    expected = within_a + within_b - 2 * mean((x, y) for x in a for y in b)
    assert kernel_distance(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_against_scikit_learn():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(50, 8)), rng.normal(0.3, 1, size=(40, 8))
    aa, bb, ab = (polynomial_kernel(x, y, degree=3, gamma=1 / 8, coef0=1) for x, y in ((a, a), (b, b), (a, b)))
    expected = (aa.sum() - np.trace(aa)) / (50 * 49) + (bb.sum() - np.trace(bb)) / (40 * 39) - 2 * ab.mean()
    assert kernel_distance(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_is_unbiased():
    """Over many draws from one distribution it averages to 0, within four standard errors."""
    generator = torch.Generator().manual_seed(3)
    values = torch.tensor(
        [kernel_distance(*(torch.randn(20, 4, generator=generator) for _ in range(2))) for _ in range(400)]
    )
    assert values.mean().abs() < 4 * values.std() / 20


@pytest.mark.parametrize("dim", [1, 8, 64])
def test_frechet_distance_against_pytorch_fid(dim):
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    rng = np.random.default_rng(dim)
    values = [*random_gaussian(rng, dim), *random_gaussian(rng, dim)]
    expected = fid_score.calculate_frechet_distance(*values)
    assert frechet_distance(*(torch.tensor(x) for x in values)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n, m, k", [(40, 30, 1), (30, 40, 3), (25, 25, 5)])
def test_precision_recall_against_plain_loops(n, m, k):
    rng = np.random.default_rng(n + k)
    real, generated = rng.normal(size=(n, 4)), rng.normal(0.5, 1.2, size=(m, 4))

    def balls(points):
        return [sorted(np.linalg.norm(points - p, axis=1))[k] for p in points]

    def inside(points, centres, reaches):
        """How many balls each point lies in, and whether each ball has a point."""
        table = np.array([[np.linalg.norm(p - c) <= r for c, r in zip(centres, reaches)] for p in points])
        return table.sum(1), table.any(0)

    in_real, held = inside(generated, real, balls(real))
    in_generated, _ = inside(real, generated, balls(generated))
    expected = dict(precision=np.mean(in_real > 0), recall=np.mean(in_generated > 0))
    expected |= dict(density=np.mean(in_real) / k, coverage=np.mean(held))
    assert precision_recall(torch.tensor(real), torch.tensor(generated), k) == pytest.approx(expected, rel=1e-12)

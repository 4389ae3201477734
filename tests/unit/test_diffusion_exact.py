"""Samplers on data whose perfect model is known: each has to reach the right distribution."""

import itertools
import math
from functools import partial

import pytest
import torch

from tests.exact_models import GaussianModel, MixtureModel
from utils.diffusion.process import PREDICTIONS, GaussianDiffusion
from utils.diffusion.sampling import SAMPLERS, ddim_step, ddpm_step, dpmpp_2m_step, sample
from utils.diffusion.schedules import SCHEDULES, NoiseSchedule

MEAN = torch.tensor([-0.7, 0.0, 0.4, 2.0], dtype=torch.float64)
STD = torch.tensor([0.1, 1.0, 0.5, 0.02], dtype=torch.float64)


def draw(model, diffusion, shape, **options):
    """The last x_t of `sample`, in float64."""
    generator = torch.Generator().manual_seed(11)
    x_T = torch.randn(shape, generator=generator, dtype=torch.float64)
    for state in sample(model, diffusion, shape, x_T=x_T, clip=False, generator=generator, **options):
        last = state.x_t
    return last


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_estimate_is_the_posterior_mean(prediction):
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(100), prediction)
    model = GaussianModel(diffusion, MEAN, STD)
    t = torch.tensor([0, 1, 40, 90])
    x_t = torch.randn(4, 4, dtype=torch.float64)
    a = diffusion.schedule.alphas_cumprod[t][:, None]
    expected = model.posterior_mean(x_t, a)
    torch.testing.assert_close(diffusion.to_x_0(model(x_t, t), x_t, t), expected, rtol=1e-8, atol=1e-8)
    noise = (x_t - a.sqrt() * expected) / (1 - a).sqrt()
    torch.testing.assert_close(diffusion.to_noise(model(x_t, t), x_t, t), noise, rtol=1e-8, atol=1e-8)


def test_perfect_model_has_the_least_loss():
    """The exact E[x_0 | x_t] reaches its closed-form loss, and anything beside it is worse."""
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(100), "x_0")
    model, generator = GaussianModel(diffusion, MEAN, STD), torch.Generator().manual_seed(2)
    count, t = 40_000, 60
    x_0 = MEAN + STD * torch.randn(count, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    ts = torch.full((count,), t)
    a = diffusion.schedule.alphas_cumprod[t]
    expected = (STD**2 * (1 - a) / (a * STD**2 + 1 - a)).mean().item()  # the mean posterior variance
    losses = diffusion.loss(model, x_0, ts, noise, reduction="none")
    assert losses.mean().item() == pytest.approx(expected, abs=5 * losses.std().item() / math.sqrt(count))
    worse = diffusion.loss(lambda x, t: model(x, t) + 0.1, x_0, ts, noise).item()
    assert worse == pytest.approx(losses.mean().item() + 0.01, abs=2e-3)


def propagate(step, diffusion, grid):
    """Mean and variance after the last step, exactly: with a perfect Gaussian model every step is affine.

    x_s = offset + slope * x_t + spread * z, read off the step itself at (x_t, z) = (0, 0), (1, 0) and (0, 1).
    """
    model = GaussianModel(diffusion, MEAN, STD)
    alphas = [*diffusion.schedule.alphas_cumprod.tolist(), 1.0]
    mean, variance = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    x_t, z = (torch.tensor(rows, dtype=torch.float64)[:, None].expand(3, 4) for rows in ([0, 1, 0], [0, 0, 1]))
    for t, s in itertools.pairwise([*grid, -1]):
        ts = torch.full((3,), t)
        x_0 = diffusion.to_x_0(model(x_t, ts), x_t, ts)
        offset, with_x, with_z = step(x_t, x_0, alphas[t], alphas[s], z, None)
        slope, spread = with_x - offset, with_z - offset
        mean, variance = offset + slope * mean, slope**2 * variance + spread**2
    return mean, variance


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddpm_reaches_mean_and_variance(schedule, prediction):
    """No sampling error here. What is left is the step's: its variance is right only as T grows (Ho et al. 2020,
    section 3.2), so the error halves when T doubles."""
    errors = []
    for num_timesteps in (250, 500, 1000):
        diffusion = GaussianDiffusion(NoiseSchedule.named(schedule, num_timesteps), prediction)
        mean, variance = propagate(ddpm_step, diffusion, range(num_timesteps - 1, -1, -1))
        torch.testing.assert_close(mean, MEAN, rtol=0, atol=5e-3)
        errors.append((variance - STD**2).abs())
    assert (errors[-1] < 0.01 * STD**2 + 2e-3).all()
    for coarse, fine in itertools.pairwise(errors):
        # The first and the last coordinate are about as narrow as the first step of a schedule is wide.
        assert ((coarse / fine)[1:3] > 1.7).all()


def test_ddpm_is_exact_for_a_single_point():
    """The posterior of a known x_0 is what a step draws from, so that one point is reached with no error."""
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(20), "v")
    model = GaussianModel(diffusion, MEAN, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(draw(model, diffusion, (5, 4), sampler="ddpm"), MEAN.expand(5, 4), atol=1e-9, rtol=0)


def test_ddpm_forward_and_back_keeps_every_marginal():
    """For a single point the marginals of x_t are known at every t: N(sqrt(alpha-bar) m, 1 - alpha-bar)."""
    diffusion = GaussianDiffusion(NoiseSchedule.linear(50), "x_0")
    model = GaussianModel(diffusion, MEAN, torch.zeros(4, dtype=torch.float64))
    count = 4000
    for state in sample(
        model, diffusion, (count, 4), sampler="ddpm", clip=False, x_T=torch.randn(count, 4, dtype=torch.float64)
    ):
        a = 1.0 if state.t == 0 else diffusion.schedule.alphas_cumprod[state.t - 1].item()
        within = 5 * math.sqrt(1 - a) / math.sqrt(count) + 0.01
        assert (state.x_t.mean(0) - math.sqrt(a) * MEAN).abs().max() < within
        if state.t:
            # The relative error of a variance from N draws is sqrt(2 / N); five of those. x_T has no trace of
            # the point, which adds alpha-bar_T.
            assert (state.x_t.var(0) / (1 - a) - 1).abs().max() < 5 * math.sqrt(2 / count)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_reaches_mean_and_variance(eta):
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(1000), "v")
    mean, variance = propagate(partial(ddim_step, eta=eta), diffusion, range(999, -1, -1))
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=5e-3)
    torch.testing.assert_close(variance, STD**2, rtol=0.01, atol=1e-3)


def test_ddim_with_eta_1_is_ddpm():
    """Same mean and variance of every step (Song et al. 2020, section 4.1), also when steps are left out."""
    diffusion = GaussianDiffusion(NoiseSchedule.linear(100), "noise")
    for grid in (range(99, -1, -1), range(99, -1, -10)):
        pair = (propagate(step, diffusion, grid) for step in (partial(ddim_step, eta=1.0), ddpm_step))
        for ours, theirs in zip(*pair):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def flow_error(step, steps):
    """Distance from the exact solution of the probability-flow equation after `steps` equal steps in the
    logarithm of the signal-to-noise ratio, in which the solvers' order is stated."""
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(10), "x_0")  # only its name of the target matters here
    model = GaussianModel(diffusion, MEAN[:3], STD[:3])
    half_log_snr = torch.linspace(-3, 3, steps + 1, dtype=torch.float64)
    alphas = torch.sigmoid(2 * half_log_snr).tolist()
    start = torch.tensor([[0.3, -1.2, 0.9]], dtype=torch.float64)
    x, previous = start, None
    for a_bar_t, a_bar_s in itertools.pairwise(alphas):
        x_0 = model.posterior_mean(x, torch.tensor(a_bar_t, dtype=torch.float64))
        x, previous = step(x, x_0, a_bar_t, a_bar_s, 0.0, previous), (x_0, a_bar_t)
    return (x - model.flow(start, alphas[0], alphas[-1])).abs().max().item()


@pytest.mark.parametrize("step, order", [(ddim_step, 1), (dpmpp_2m_step, 2)])
def test_order_of_convergence(step, order):
    errors = [flow_error(step, steps) for steps in (40, 80, 160, 320)]
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(order, abs=0.15), orders


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_deterministic_samplers_follow_the_flow(schedule):
    """Through `sample`: from the same x_T, DDIM and DPM-Solver++ come ever nearer to the exact end."""
    diffusion = GaussianDiffusion(NoiseSchedule.named(schedule, 1000), "v")
    model = GaussianModel(diffusion, MEAN[:3], STD[:3])
    x_T = torch.randn(64, 3, dtype=torch.float64)
    exact = model.flow(x_T, diffusion.schedule.alphas_cumprod[-1].item(), 1.0)
    errors = {}
    for sampler, steps in itertools.product(("ddim", "dpmpp_2m"), (10, 20, 40)):
        for state in sample(model, diffusion, x_T.shape, sampler=sampler, steps=steps, clip=False, x_T=x_T):
            last = state.x_t
        errors[sampler, steps] = (last - exact).square().mean().sqrt().item()
    for sampler in ("ddim", "dpmpp_2m"):
        assert errors[sampler, 10] > 1.4 * errors[sampler, 20] > 2.0 * errors[sampler, 40], errors
    assert errors["dpmpp_2m", 20] < 0.7 * errors["ddim", 20], errors


WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
CENTRES = torch.tensor([[-2.0, -1.25], [1.75, -1.5], [0.25, 2.0]], dtype=torch.float64)
COUNT, WIDTH = 4000, 0.3


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "sampler, steps, eta",
    [("ddpm", 500, 0.0), ("ddim", 250, 0.0), ("ddim", 500, 0.7), ("ddim", 500, 1.0), ("dpmpp_2m", 100, 0.0)],
)
def test_every_sampler_reaches_the_mixture(schedule, sampler, steps, eta):
    assert sampler in SAMPLERS
    diffusion = GaussianDiffusion(NoiseSchedule.named(schedule, 500), "v")
    model = MixtureModel(diffusion, WEIGHTS, CENTRES, WIDTH)
    points = draw(model, diffusion, (COUNT, 2), sampler=sampler, steps=steps, eta=eta)
    nearest = torch.cdist(points, CENTRES).argmin(1)
    for k, (weight, centre) in enumerate(zip(WEIGHTS.tolist(), CENTRES)):
        mine = points[nearest == k]
        # Four standard errors of a share, of a mean and of a variance, and for the finite number of steps 0.005 of
        # a mean and 5% of a variance: what a single Gaussian of this width is off by.
        assert len(mine) / COUNT == pytest.approx(weight, abs=4 * math.sqrt(weight * (1 - weight) / COUNT))
        assert (mine.mean(0) - centre).abs().max() < 4 * WIDTH / math.sqrt(len(mine)) + 5e-3
        covariance = mine.T.cov() / WIDTH**2
        assert (covariance - torch.eye(2)).abs().max() < 4 * math.sqrt(2 / len(mine)) + 0.05

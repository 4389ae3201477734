"""Likelihood by the probability-flow ODE, against densities that are known in closed form."""

import math

import pytest
import torch
from torch.distributions import Normal

from tests.exact_models import GaussianModel, MixtureModel
from tests.tiny import tiny_diffusion, tiny_unet
from utils.diffusion import likelihood
from utils.diffusion.likelihood import angle_grid, bits_per_dimension, log_likelihood, v_and_divergence
from utils.diffusion.process import PREDICTIONS, GaussianDiffusion
from utils.diffusion.schedules import NoiseSchedule


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(mean, std, prediction="v", schedule=None):
    """A perfect model, its diffusion, and the log-density at timestep 0 of x_0 ~ N(mean, std^2)."""
    diffusion = GaussianDiffusion(schedule or NoiseSchedule.cosine(1000), prediction)
    a = float(diffusion.schedule.alphas_cumprod[0])
    at_0 = Normal(a**0.5 * mean, (a * std**2 + 1 - a) ** 0.5)
    return GaussianModel(diffusion, mean, std), diffusion, lambda x: at_0.log_prob(x).flatten(1).sum(1)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_gaussian_s_density(prediction):
    """Its velocity acts on each number alone, so one probe gives the exact divergence."""
    mean, std = float64(0.3, -0.5, 0.0), float64(0.2, 0.5, 1.5)
    model, diffusion, log_prob = gaussian(mean, std, prediction)
    x = mean + std * torch.randn(50, 3, generator=rng(), dtype=torch.float64)
    seen = log_likelihood(model, diffusion, x, steps=999)
    torch.testing.assert_close(seen, log_prob(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["linear", "sigmoid"])
def test_other_schedules(name):
    model, diffusion, log_prob = gaussian(float64(0.2), float64(0.5), schedule=NoiseSchedule.named(name, 1000))
    x = 0.2 + 0.5 * torch.randn(20, 1, generator=rng(), dtype=torch.float64)
    seen = log_likelihood(model, diffusion, x, steps=400)
    torch.testing.assert_close(seen, log_prob(x), rtol=0, atol=0.01)  # linear ends at sqrt(alpha-bar) = 0.006


def test_the_error_falls_with_the_square_of_the_steps():
    model, diffusion, log_prob = gaussian(float64(0.0), float64(0.5))
    x = float64(-0.7, 0.1, 0.9)[:, None]
    errors = [
        float((log_likelihood(model, diffusion, x, steps=n) - log_prob(x)).abs().max()) for n in (25, 50, 100, 200)
    ]
    assert all(2.5 < a / b < 6 for a, b in zip(errors, errors[1:])), errors  # noqa: RUF007
    assert errors[0] < 0.01


def test_a_mixture_s_density_is_right_on_average_over_probes():
    """In the plane the mean over the probes (1, 1) and (1, -1) is exact; each of four draws is equally likely."""
    weights, means, std = float64(0.5, 0.3, 0.2), float64([-0.6, 0.0], [0.5, 0.4], [0.3, -0.7]), 0.15
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(1000), "v")
    model, point = MixtureModel(diffusion, weights, means, std), float64([0.1, -0.2])
    a = float(diffusion.schedule.alphas_cumprod[0])
    parts = Normal(a**0.5 * means, (a * std**2 + 1 - a) ** 0.5).log_prob(point).sum(1)
    seen = log_likelihood(model, diffusion, point.expand(64, 2), steps=400, generator=rng(1))
    groups = sorted(set(seen.round(decimals=6).tolist()))
    assert len(groups) == 2, "u and -u give the same, (1, 1) and (1, -1) do not"
    assert sum(groups) / 2 == pytest.approx(float((weights.log() + parts).logsumexp(0)), abs=1e-3)


def test_divergence_is_probe_times_derivative_times_probe():
    matrix = torch.randn(4, 4, generator=rng(), dtype=torch.float64)
    x, probe = torch.randn(2, 5, 2, 2, generator=rng(1), dtype=torch.float64)

    def velocity(x):
        return (x.flatten(1) @ matrix.T).sin().view(x.shape)

    v, divergence = v_and_divergence(velocity, x, probe)
    torch.testing.assert_close(v, velocity(x))
    for k in range(5):
        jacobian = torch.autograd.functional.jacobian(lambda one: velocity(one[None])[0], x[k]).view(4, 4)
        assert float(divergence[k]) == pytest.approx(float(probe[k].flatten() @ jacobian @ probe[k].flatten()))
    assert not (v.requires_grad or divergence.requires_grad or x.requires_grad)


def test_it_works_where_gradients_are_off():
    with torch.no_grad():
        _, divergence = v_and_divergence(lambda x: 3 * x, torch.zeros(2, 4), torch.ones(2, 4))
    assert divergence.tolist() == [12.0, 12.0]


def test_bits_of_pixels_whose_density_is_known():
    """Independent pixels from a normal: the mean over the added noise is an integral, here by SciPy's quadrature."""
    from scipy.integrate import quad

    model, diffusion, log_prob = gaussian(float64(0.1), float64(0.4))
    values = (230, 240, 250, 255)  # on one side of the mean, where a shift of the noise would show
    pixels = torch.tensor(values, dtype=torch.uint8).view(1, 1, 2, 2)
    seen = bits_per_dimension(model, diffusion, pixels.expand(40, 1, 2, 2), steps=400, generator=rng())

    def bits(u, value):
        return -float(log_prob(float64([(value + u) / 127.5 - 1]))) / math.log(2) + math.log2(127.5)

    right = sum(quad(bits, -0.5, 0.5, args=(value,))[0] for value in values) / 4
    assert float(seen.mean()) == pytest.approx(right, abs=4 * float(seen.std()) / 40**0.5 + 1e-3)
    assert float(seen.std()) < 0.05 < right


def test_a_density_uniform_on_one_bin_gives_zero_bits(monkeypatch):
    """The noise stays in the pixel's bin, 2/255 wide, and the constant is that of such bins."""

    def log_prob(model, diffusion, x, y):
        middle = 200 / 127.5 - 1
        one_bin = torch.distributions.Uniform(middle - 1.001 / 255, middle + 1.001 / 255)
        return one_bin.log_prob(x).flatten(1).sum(1)

    monkeypatch.setattr(likelihood, "log_likelihood", log_prob)
    pixels = torch.full((3, 1, 8, 8), 200, dtype=torch.uint8)
    torch.testing.assert_close(bits_per_dimension(None, None, pixels), torch.zeros(3), rtol=0, atol=0.002)


def test_seed_and_labels_count():
    model, diffusion = tiny_unet(), tiny_diffusion()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=rng())
    pixels = torch.randint(256, (3, 1, 8, 8), generator=rng(), dtype=torch.uint8)
    y = torch.tensor([1, 2, 3])

    def bits(seed, y):
        return bits_per_dimension(model.eval(), diffusion, pixels, y, steps=3, generator=rng(seed))

    assert torch.equal(bits(0, y), bits(0, y)) and bits(0, y).shape == (3,)
    assert not torch.equal(bits(0, y), bits(1, y)) and not torch.equal(bits(0, y), bits(0, None))
    assert all(p.grad is None for p in model.parameters())


def test_grid_is_closest_at_little_noise():
    phi = NoiseSchedule.cosine(1000).alphas_cumprod.sqrt().acos().tolist()
    grid = angle_grid(phi, 25)
    gaps = [phi[b] - phi[a] for a, b in zip(grid, grid[1:])]  # noqa: RUF007
    assert grid[0] == 0 and grid[-1] == 999 and len(grid) == 26
    assert gaps == sorted(gaps) and angle_grid(phi, 1) == [0, 999]


@pytest.mark.parametrize("steps", [0, 50, -3, 2.5, None])
def test_steps_outside_their_range_are_refused(steps):
    with pytest.raises(ValueError, match=rf"steps must lie in 1..49, got {steps}"):
        log_likelihood(tiny_unet(), tiny_diffusion(num_timesteps=50), torch.zeros(2, 1, 8, 8), steps=steps)


def test_pixels_and_floats_are_not_mixed_up():
    model, diffusion = tiny_unet(), tiny_diffusion()
    with pytest.raises(ValueError, match="takes floats, got torch.uint8; for 8-bit pixels use bits_per_dimension"):
        log_likelihood(model, diffusion, torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"those of uint8 pixels 0..255, got torch.float32"):
        bits_per_dimension(model, diffusion, torch.zeros(2, 1, 8, 8))

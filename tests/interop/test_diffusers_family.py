"""Solvers, grids and conversions of `family` against the schedulers of diffusers: the same network, the same levels."""

import math

import pytest
import torch

from utils.diffusion.family import PATHS, denoiser, edm_grid, euler, heun, noise_levels, velocity
from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.sampling import timestep_grid
from utils.diffusion.schedules import NoiseSchedule

diffusers = pytest.importorskip("diffusers")

SHAPE = (3, 2, 4, 4)
NAMES = {"noise": "epsilon", "v": "v_prediction"}


def network(x_t, t):
    """Some smooth function of x_t and t that mixes pixels."""
    return torch.tanh(1.3 * x_t.roll(1, -1) - 0.2 * x_t + 0.003 * t.view(-1, 1, 1, 1))


# Their Euler scheduler computes in float32, where x is as large as the highest level, 157.
@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize(
    "solver, theirs, tolerance", [(heun, "HeunDiscreteScheduler", 1e-9), (euler, "EulerDiscreteScheduler", 1e-4)]
)
@pytest.mark.parametrize("steps", [4, 10, 25])
def test_solvers(solver, theirs, tolerance, prediction, steps):
    diffusion = GaussianDiffusion(NoiseSchedule.linear(100), prediction)
    options = dict(prediction_type=NAMES[prediction], timestep_spacing="trailing")
    scheduler = getattr(diffusers, theirs)(100, trained_betas=diffusion.schedule.betas.numpy(), **options)
    scheduler.set_timesteps(steps)
    grid = [float(noise_levels(diffusion)[t]) for t in timestep_grid(100, steps)] + [0.0]
    known = torch.tensor([*dict.fromkeys(scheduler.sigmas.tolist())], dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(grid, dtype=torch.float64), known, rtol=1e-6, atol=0)
    places = (scheduler.sigmas.double()[:, None] - known).abs().argmin(1)
    scheduler.sigmas = torch.tensor(grid, dtype=torch.float64)[places]  # theirs, in float32, without its rounding
    noise = torch.randn(SHAPE, dtype=torch.float64)
    *_, ours = solver(denoiser(network, diffusion), PATHS["EDM"], grid[0] * noise, grid)
    x = grid[0] * noise
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), t.expand(SHAPE[0]))
        x = scheduler.step(output, t, x).prev_sample
    torch.testing.assert_close(ours, x.double(), rtol=tolerance, atol=tolerance)


def test_the_grid():
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.01, sigma_max=50.0, rho=6.0)
    scheduler.set_timesteps(12)
    torch.testing.assert_close(torch.tensor(edm_grid(12, 0.01, 50.0, 6.0)), scheduler.sigmas, rtol=1e-5, atol=1e-6)


def test_flow_matching():
    diffusion, path = GaussianDiffusion(NoiseSchedule.linear(100), "v"), PATHS["flow"]
    times = [path.time(float(noise_levels(diffusion)[t])) for t in timestep_grid(100, 10)]
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=100)
    scheduler.set_timesteps(sigmas=times)
    denoise, x = denoiser(network, diffusion), torch.randn(SHAPE, dtype=torch.float64)
    *_, ours = euler(denoise, path, x, [*times, 0.0])
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(denoise, path, x, times[int(scheduler.step_index or 0)]), t, x).prev_sample
    torch.testing.assert_close(ours, x.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sigma_bar", [0.05, 1.0, 20.0])
def test_preconditioning_with_unit_data_is_v_prediction(sigma_bar):
    """EDM's network F is minus v where sigma_data is 1 (Karras et al. 2022, eq. 7 and Table 1)."""
    scheduler = diffusers.EDMEulerScheduler(sigma_data=1.0)
    x_bar, v = torch.randn(2, *SHAPE, dtype=torch.float64)
    diffusion = GaussianDiffusion(NoiseSchedule.from_betas(torch.tensor([1 - 1 / (1 + sigma_bar**2)])), "v")
    x_t = x_bar / math.hypot(1, sigma_bar)
    torch.testing.assert_close(scheduler.precondition_inputs(x_bar, sigma_bar), x_t)
    ours = diffusion.to_x_0(v, x_t, torch.zeros(3, dtype=torch.long))
    theirs = scheduler.precondition_outputs(x_bar, -v, torch.tensor(sigma_bar, dtype=torch.float64))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)

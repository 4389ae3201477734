"""Paths, denoisers and solvers: closed forms, SciPy's solver on a mixture, what is one under two names, bad input."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from tests.exact_models import GaussianModel, MixtureModel
from tests.tiny import tiny_diffusion, tiny_unet
from utils.diffusion.family import (
    PATHS,
    denoiser,
    edm_grid,
    euler,
    heun,
    nearest_timestep,
    noise_levels,
    round_levels,
    velocity,
)
from utils.diffusion.process import PREDICTIONS, GaussianDiffusion
from utils.diffusion.sampling import sample, timestep_grid
from utils.diffusion.schedules import NoiseSchedule

WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
CENTRES = torch.tensor([[-1.0, -0.25], [0.75, -0.5], [0.25, 1.0]], dtype=torch.float64)
WIDTH = 0.4


def exact(x_bar, sigma_bar):
    """E[x_0] of the mixture, given x_bar; at any noise level, not only at a schedule's."""
    a = torch.full((len(x_bar), 1), 1 / (1 + sigma_bar**2), dtype=torch.float64)
    return MixtureModel(None, WEIGHTS, CENTRES, WIDTH).posterior_mean(a.sqrt() * x_bar, a)


def points(count=20):
    return torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def along(path, sigma_bar, x_bar):
    """The time and the point of a path that belong to EDM's sigma_bar and x_bar."""
    t = path.time(sigma_bar)
    return t, path.at(t)[0] * x_bar


# -- paths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("sigma_bar", [0.02, 0.7, 1.0, 40.0])
def test_time_and_slopes(name, sigma_bar):
    path, h = PATHS[name], 1e-6
    t = path.time(sigma_bar)
    signal, sigma, *slopes = path.at(t)
    assert sigma / signal == pytest.approx(sigma_bar)
    before, after = path.at(t - h), path.at(t + h)
    assert slopes == pytest.approx([(after[k] - before[k]) / (2 * h) for k in (0, 1)], rel=1e-5, abs=1e-8)


def test_what_tells_the_paths_apart():
    for t in (0.1, 0.5, 0.9):
        (signal, sigma, *_), (flow_signal, flow_sigma, *_) = PATHS["VP"].at(t), PATHS["flow"].at(t)
        assert signal**2 + sigma**2 == pytest.approx(1) and flow_signal + flow_sigma == pytest.approx(1)
        assert PATHS["EDM"].at(t)[:2] == (1, t) and PATHS["VE"].at(t)[0] == 1
    assert [PATHS["VE"].at(t)[1] for t in (0, 1)] == pytest.approx([0.01, 50.0])
    cosine = NoiseSchedule.cosine(1000, s=0.0).alphas_cumprod[499]
    assert PATHS["VP"].at(0.5)[0] ** 2 == pytest.approx(float(cosine))


@pytest.mark.parametrize("name", PATHS)
def test_velocity_is_the_slope_of_the_exact_flow(name):
    """For a Gaussian the flow is known: quantiles stay quantiles."""
    path, mean, std, x_bar = PATHS[name], 0.3, 0.5, points()[:, :1]

    def flow(t):
        signal, sigma, *_ = path.at(t)
        return signal * mean + math.hypot(signal * std, sigma) * x_bar

    def denoise(x, sigma_bar):
        a = torch.tensor(1 / (1 + sigma_bar**2), dtype=torch.float64)
        return GaussianModel(None, torch.tensor(mean), torch.tensor(std)).posterior_mean(a.sqrt() * x, a)

    for sigma_bar in (0.1, 1.0, 10.0):
        t, h = path.time(sigma_bar), 1e-5
        slope = (flow(t + h) - flow(t - h)) / (2 * h)
        torch.testing.assert_close(velocity(denoise, path, flow(t), t), slope, rtol=1e-6, atol=1e-6)


# -- denoisers and grids ---------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_denoiser_of_a_model_is_the_exact_one(prediction):
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(100), prediction)
    denoise = denoiser(MixtureModel(diffusion, WEIGHTS, CENTRES, WIDTH), diffusion)
    levels = noise_levels(diffusion).tolist()
    for t in (0, 1, 40, 90, 98):
        x_bar = CENTRES.mean(0) + levels[t] * points()
        torch.testing.assert_close(denoise(x_bar, levels[t]), exact(x_bar, levels[t]), rtol=1e-6, atol=1e-6)
        assert nearest_timestep(diffusion, levels[t]) == t


def test_levels_are_rounded_to_the_nearest_in_log():
    diffusion = tiny_diffusion()
    levels = noise_levels(diffusion).tolist()
    middle, far = (math.sqrt(levels[t] * levels[t + 1]) for t in (20, 48))
    assert [nearest_timestep(diffusion, middle * factor) for factor in (0.999, 1.001)] == [20, 21]
    assert [nearest_timestep(diffusion, far * factor) for factor in (0.99, 1.01)] == [48, 49]
    grid = [levels[30] * 1.01, middle * 1.001, middle * 0.999, levels[20] * 0.99, levels[0], 0.0]
    assert round_levels(diffusion, grid) == [levels[t] for t in (30, 21, 20, 0)] + [0.0]
    assert round_levels(diffusion, grid[:-1])[-1] == levels[0]


def test_edm_grid():
    grid = edm_grid(10, 0.01, 50.0, rho=3.0)
    assert len(grid) == 11 and grid[-1] == 0
    assert (grid[0], grid[9]) == pytest.approx((50.0, 0.01))
    assert np.ptp(np.diff(np.cbrt(grid[:10]))) < 1e-9


def test_labels_shapes_and_a_learned_variance():
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(50), "v", variance="learned")
    model, y = tiny_unet(out_channels=2, dropout=0.0), torch.tensor([1, 2])
    for name, weight in model.named_parameters():
        if "head.2" in name or "conv2" in name:
            torch.nn.init.normal_(weight, std=0.2)
    x_bar = torch.randn(2, 1, 8, 8)
    with_labels, without = (denoiser(model, diffusion, labels)(x_bar, 1.0) for labels in (y, None))
    assert with_labels.shape == x_bar.shape and not torch.allclose(with_labels, without, atol=1e-3)
    assert denoiser(model, diffusion)(x_bar.double(), 1.0).dtype == torch.float64


# -- solvers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["EDM", "flow"])
def test_euler_is_ddim(name):
    """With the estimate of x_0 held fixed, both paths are straight lines, and so is DDIM's, in sigma_bar."""
    diffusion = GaussianDiffusion(NoiseSchedule.linear(100), "v")
    model, x_T = MixtureModel(diffusion, WEIGHTS, CENTRES, WIDTH), points()
    *_, last = sample(model, diffusion, x_T.shape, sampler="ddim", steps=20, clip=False, x_T=x_T)
    path = PATHS[name]
    times = [path.time(float(noise_levels(diffusion)[t])) for t in timestep_grid(100, 20)] + [0.0]
    signal, sigma, *_ = path.at(times[0])
    *_, x = euler(denoiser(model, diffusion), path, x_T * math.hypot(signal, sigma), times)
    torch.testing.assert_close(x, last.x_t, rtol=1e-9, atol=1e-9)


def answer_of_scipy(first, last, x_bar):
    def slope(sigma_bar, flat):
        x = torch.from_numpy(flat).view(-1, 2)
        return ((x - exact(x, sigma_bar)) / sigma_bar).flatten().numpy()

    solved = solve_ivp(slope, [first, last], x_bar.flatten().numpy(), method="DOP853", rtol=1e-11, atol=1e-11)
    return torch.from_numpy(solved.y[:, -1]).view(-1, 2)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("solver, order", [(euler, 1), (heun, 2)])
def test_solvers_reach_scipy_s_answer_with_their_order(solver, order, name):
    first, last = 10.0, 0.1
    path, x_bar = PATHS[name], first * points()
    right = answer_of_scipy(first, last, x_bar)
    errors = []
    for steps in (200, 400):
        grid = edm_grid(steps + 1, last, first)[:-1]
        _, x = along(path, first, x_bar)
        *_, x = solver(exact, path, x, [path.time(sigma_bar) for sigma_bar in grid])
        signal = path.at(path.time(last))[0]
        errors.append(float((x / signal - right).norm(dim=1).mean()))
    assert errors[1] < {1: 0.05, 2: 1e-3}[order]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


def test_heun_asks_twice_a_step_and_once_in_the_last():
    asked = []

    def counted(x_bar, sigma_bar):
        asked.append(sigma_bar)
        return exact(x_bar, sigma_bar)

    states = list(heun(counted, PATHS["EDM"], 80.0 * points(), edm_grid(6)))
    assert len(states) == 6 and len(asked) == 11
    grid = edm_grid(6)
    assert asked == pytest.approx([one for pair in pairwise(grid) for one in pair][:-1])
    torch.testing.assert_close(states[-1], exact(states[-2], grid[-2]))
    list(euler(counted, PATHS["EDM"], 80.0 * points(), edm_grid(6)))
    assert len(asked) == 17


def test_solvers_keep_no_graph():
    weight = torch.ones((), requires_grad=True)
    for solver in (euler, heun):
        *_, x = solver(lambda x, sigma_bar: weight * exact(x, sigma_bar), PATHS["EDM"], points(), [1.0, 0.5])
        assert not x.requires_grad


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_bar", [1e-4, 0.0, -1.0, 1e9, math.nan])
def test_levels_that_the_schedule_has_not(sigma_bar):
    diffusion = tiny_diffusion()
    low, high = (f"{float(noise_levels(diffusion)[t]):.4g}" for t in (0, -1))
    told = f"sigma_bar = {sigma_bar:.4g} is not in {low} to {high}, the levels of this schedule"
    with pytest.raises(ValueError, match=re.escape(told)):
        denoiser(tiny_unet(), diffusion)(torch.zeros(2, 1, 8, 8), sigma_bar)
    if sigma_bar:
        with pytest.raises(ValueError, match="begin and end the grid between them"):
            round_levels(diffusion, [1.0, sigma_bar])


@pytest.mark.parametrize("bad", [(1,), (5, 0.0), (5, 80.0), (5, 0.1, 0.01), (5, 0.1, 80.0, 0.0), (5, math.nan)])
def test_grids_that_are_none(bad):
    with pytest.raises(
        ValueError, match=r"a grid needs steps of at least 2, 0 < lowest < highest and rho above 0, got"
    ):
        edm_grid(*bad)


@pytest.mark.parametrize("name, t", [("VP", 0.0), ("EDM", 0.0), ("flow", 0.0), ("flow", 1.0), ("EDM", -1.0)])
def test_the_ends_of_a_path_have_no_velocity(name, t):
    with pytest.raises(ValueError, match=rf"both must be above 0, got signal .* at t = {t:.4g}; begin at path.time"):
        velocity(exact, PATHS[name], points(), t)

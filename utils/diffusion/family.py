"""One family: DDPM, EDM and flow matching as two functions of time each, and the two solvers that serve them all.

A noisy image is x = signal * x_0 + sigma * noise, and a path says how both weights depend on its time. Where two paths
have the same noise level sigma_bar = sigma / signal, they hold the same image up to a scale. So one network serves all:

    denoise = denoiser(model, diffusion, y)                     # EDM's D(x_bar, sigma_bar)
    grid = round_levels(diffusion, edm_grid(10, lowest=0.01))   # EDM's sigma is sigma_bar here
    for x in heun(denoise, PATHS["EDM"], grid[0] * noise, grid):
        ...                                                     # x at the next time; the last one is the sample
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.diffusion.process import GaussianDiffusion, answer

Denoiser = Callable[[Tensor, float], Tensor]  # as denoise(x_bar, sigma_bar), where x_bar = x_0 + sigma_bar * noise
VE_LOW, VE_HIGH = 0.01, 50.0  # sigma at t = 0 and 1 (Song et al. 2021, Appendix C; the range of their CIFAR-10 models)


class Path(NamedTuple):
    """How much image and noise x holds at each time.

    at: of a time, (signal, sigma, d signal / dt, d sigma / dt), four numbers.
    time: of a noise level sigma_bar = sigma / signal, the time at which the path has it.
    """

    at: Callable[[float], tuple[float, float, float, float]]
    time: Callable[[float], float]


def _circle(t: float) -> tuple[float, float, float, float]:
    signal, sigma, speed = math.cos(math.pi / 2 * t), math.sin(math.pi / 2 * t), math.pi / 2
    return signal, sigma, -speed * sigma, speed * signal


def _exponential(t: float) -> tuple[float, float, float, float]:
    rate = math.log(VE_HIGH / VE_LOW)
    sigma = VE_LOW * math.exp(rate * t)
    return 1.0, sigma, 0.0, rate * sigma


# Variance preserving: the cosine schedule without its offset. Variance exploding. EDM. Flow matching, rectified flow.
PATHS = {
    "VP": Path(_circle, lambda sigma_bar: 2 / math.pi * math.atan(sigma_bar)),
    "VE": Path(_exponential, lambda sigma_bar: math.log(sigma_bar / VE_LOW) / math.log(VE_HIGH / VE_LOW)),
    "EDM": Path(lambda t: (1.0, t, 0.0, 1.0), lambda sigma_bar: sigma_bar),
    "flow": Path(lambda t: (1 - t, t, -1.0, 1.0), lambda sigma_bar: sigma_bar / (1 + sigma_bar)),
}


def noise_levels(diffusion: GaussianDiffusion) -> Tensor:
    """sigma_bar = sqrt((1 - alpha-bar) / alpha-bar) at each timestep, rising: (T,) in float64."""
    return diffusion.schedule.snr.rsqrt()


def nearest_timestep(diffusion: GaussianDiffusion, sigma_bar: float) -> int:
    """The timestep whose noise level has the nearest logarithm. Raises ValueError for one outside the schedule's."""
    levels = noise_levels(diffusion)
    low, high = float(levels[0]), float(levels[-1])
    if not low * (1 - 1e-6) <= sigma_bar <= high * (1 + 1e-6):
        known = f"{low:.4g} to {high:.4g}, the levels of this schedule"
        raise ValueError(f"sigma_bar = {sigma_bar:.4g} is not in {known}; begin and end the grid between them")
    return int((levels.log() - math.log(sigma_bar)).abs().argmin())


def denoiser(model: nn.Module, diffusion: GaussianDiffusion, y: Tensor | None = None) -> Denoiser:
    """EDM's D(x_bar, sigma_bar) of a trained network, whatever it predicts: x_bar (B, ...) to its estimate of x_0.

    The level is rounded to the nearest of the schedule (Karras et al. 2022, Appendix C.3), so give a solver those of
    `round_levels`. y: class labels (B,), or None. With x_bar in float64 all but the network runs in float64.
    """

    def denoise(x_bar: Tensor, sigma_bar: float) -> Tensor:
        t = torch.full((len(x_bar),), nearest_timestep(diffusion, sigma_bar), device=x_bar.device)
        signal, _ = diffusion.signal_and_noise(t, x_bar)
        x_t = signal * x_bar
        output, _ = diffusion.split(answer(model, x_t, t, y, diffusion.parts))
        return diffusion.to_x_0(output, x_t, t)

    return denoise


def edm_grid(steps: int, lowest: float = 0.002, highest: float = 80.0, rho: float = 7.0) -> list[float]:
    """`steps` noise levels, highest to lowest, evenly spaced in their rho-th root, and 0 (Karras et al. 2022, eq. 5).

    Raises ValueError for fewer than 2 steps, and unless 0 < lowest < highest and 0 < rho.
    """
    if steps < 2 or not (0 < lowest < highest and rho > 0):
        given = f"steps = {steps}, lowest = {lowest}, highest = {highest}, rho = {rho}"
        raise ValueError(f"a grid needs steps of at least 2, 0 < lowest < highest and rho above 0, got {given}")
    first, last = highest ** (1 / rho), lowest ** (1 / rho)
    return [(first + k / (steps - 1) * (last - first)) ** rho for k in range(steps)] + [0.0]


def round_levels(diffusion: GaussianDiffusion, grid: Sequence[float]) -> list[float]:
    """A falling grid at the schedule's own levels, each once; an end of 0 stays. Raises as `nearest_timestep` does."""
    levels = noise_levels(diffusion)
    timesteps = {nearest_timestep(diffusion, sigma_bar) for sigma_bar in grid if sigma_bar != 0}
    return [float(levels[t]) for t in sorted(timesteps, reverse=True)] + [0.0] * (grid[-1] == 0)


def velocity(denoise: Denoiser, path: Path, x: Tensor, t: float) -> Tensor:
    """dx/dt of the probability-flow ODE along the path (Karras et al. 2022, eq. 4); of the shape of x.

    Raises ValueError at an end of the path, where x holds no image or no noise.
    """
    signal, sigma, signal_slope, sigma_slope = path.at(t)
    if not (signal > 0 and sigma > 0):
        seen = f"signal {signal:.4g} and sigma {sigma:.4g} at t = {t:.4g}"
        raise ValueError(f"both must be above 0, got {seen}; begin at path.time(sigma_bar) of a level that is known")
    x_0 = denoise(x / signal, sigma / signal)
    return signal_slope * x_0 + sigma_slope * (x - signal * x_0) / sigma


@torch.no_grad()
def euler(denoise: Denoiser, path: Path, x: Tensor, times: Sequence[float]) -> Iterator[Tensor]:
    """From x at the first of the times, yields x at each later one; one evaluation a step."""
    for t, s in pairwise(times):
        x = x + (s - t) * velocity(denoise, path, x, t)
        yield x


@torch.no_grad()
def heun(denoise: Denoiser, path: Path, x: Tensor, times: Sequence[float]) -> Iterator[Tensor]:
    """As `euler`, with the mean of the slopes at both ends of a step (Karras et al. 2022, Algorithm 1).

    Two evaluations a step, one for a step to sigma = 0, which stays Euler's: 2 N - 1 for N steps of `edm_grid`.
    """
    for t, s in pairwise(times):
        slope = velocity(denoise, path, x, t)
        ahead = x + (s - t) * slope
        if path.at(s)[1] > 0:
            ahead = x + (s - t) / 2 * (slope + velocity(denoise, path, ahead, s))
        x = ahead
        yield x

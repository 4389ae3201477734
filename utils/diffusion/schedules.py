"""Noise schedules: how much of the image is left at each timestep.

A schedule is the list beta_0 ... beta_{T-1}. Everything else (alphas, alphas_cumprod, SNR) follows from it. All
tensors have shape (T,) and are float64: the product of a thousand factors close to one loses digits in float32.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from utils.diffusion.checks import check_numbers
from utils.files import check_choice

MAX_BETA = 0.999
SCHEDULES = ("linear", "cosine", "sigmoid")


class NoiseSchedule:
    """The variances beta_t of the forward process (Ho et al. 2020, eq. 2) and what follows from them.

    Attributes, but for num_timesteps float64 of shape (T,):
        num_timesteps: T; timesteps are numbered 0 (least noise) to T-1 (most noise).
        betas: variance added at step t, in (0, 1).
        alphas: 1 - betas.
        alphas_cumprod: alpha-bar_t, the product of alphas up to and including t. Falls from near 1 to near 0.
        alphas_cumprod_prev: alpha-bar_{t-1}, with 1 in front of the first step.
        snr: alpha-bar_t / (1 - alpha-bar_t), the signal-to-noise ratio.
    Raises ValueError for betas of another shape or outside (0, 1).
    """

    def __init__(self, betas: Tensor, name: str = "custom"):
        # A copy of our own: nothing done to the caller's tensor later may part betas from what follows from them.
        betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu").detach().clone()
        if betas.ndim != 1 or len(betas) == 0:
            raise ValueError(f"betas must be a list of at least one number, got shape {tuple(betas.shape)}")
        outside = betas[~((betas > 0) & (betas < 1))]
        if len(outside):
            raise ValueError(f"every beta must lie between 0 and 1 (both excluded), got {outside[0].item()}")
        self.name, self.num_timesteps = name, len(betas)
        self.betas = betas
        self.alphas = 1 - betas
        self.alphas_cumprod = self.alphas.cumprod(0)
        self.alphas_cumprod_prev = torch.cat([torch.ones(1, dtype=betas.dtype), self.alphas_cumprod[:-1]])
        self.snr = self.alphas_cumprod / (1 - self.alphas_cumprod)

    @classmethod
    def from_betas(cls, betas: Tensor) -> "NoiseSchedule":
        """Any betas of shape (T,), each between 0 and 1: the constructor under the name of its fellows."""
        return cls(betas)

    @classmethod
    def linear(cls, num_timesteps: int = 1000, rescale: bool = True) -> "NoiseSchedule":
        """Linear betas from 0.0001 to 0.02 (Ho et al. 2020, section 4), which were chosen for T = 1000.

        With `rescale` both ends are multiplied by 1000 / T, so that x_T is noise whatever T is. Without it a short
        schedule stops half-way: notebook 01 measures what that costs.
        """
        num_timesteps = check_numbers(num_timesteps=num_timesteps)["num_timesteps"]
        scale = 1000 / num_timesteps if rescale else 1.0
        # Counted from the end, so that a schedule of one step has the largest beta, not the smallest.
        betas = torch.linspace(scale * 0.02, scale * 1e-4, num_timesteps, dtype=torch.float64).flip(0)
        return cls(betas.clamp(max=MAX_BETA), "linear")

    @classmethod
    def cosine(cls, num_timesteps: int = 1000, s: float = 0.008) -> "NoiseSchedule":
        """alpha-bar follows a squared cosine (Nichol & Dhariwal 2021, eq. 17); betas are capped at 0.999."""

        def alpha_bar(u: Tensor) -> Tensor:
            return torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2

        return cls(_betas_from_alpha_bar(alpha_bar, num_timesteps), "cosine")

    @classmethod
    def sigmoid(cls, num_timesteps: int = 1000, start: float = -3, end: float = 3, tau: float = 1) -> "NoiseSchedule":
        """alpha-bar follows a sigmoid scaled to run from 1 to 0 (Jabri et al. 2022, arXiv 2212.11972)."""
        ends = torch.tensor([start, end], dtype=torch.float64).div(tau).sigmoid()

        def alpha_bar(u: Tensor) -> Tensor:
            return (ends[1] - ((u * (end - start) + start) / tau).sigmoid()) / (ends[1] - ends[0])

        return cls(_betas_from_alpha_bar(alpha_bar, num_timesteps), "sigmoid")

    @classmethod
    def named(cls, name: str, num_timesteps: int = 1000) -> "NoiseSchedule":
        """The schedule called "linear", "cosine" or "sigmoid". Raises ValueError with that list."""
        check_choice("schedule", name, SCHEDULES)
        return getattr(cls, name)(num_timesteps)


def _betas_from_alpha_bar(alpha_bar: Callable[[Tensor], Tensor], num_timesteps: int) -> Tensor:
    """beta_t = 1 - alpha-bar((t+1)/T) / alpha-bar(t/T), for a curve alpha-bar on [0, 1]."""
    num_timesteps = check_numbers(num_timesteps=num_timesteps)["num_timesteps"]
    curve = alpha_bar(torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64))
    return (1 - curve[1:] / curve[:-1]).clamp(max=MAX_BETA)

"""Telling the network which timestep it looks at.

All embeddings map timesteps t (B,) to features (B, dim). Values of t run from 0 to T-1.
"""

import math

import torch
from torch import Tensor, nn


def sinusoidal_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sines, then cosines, of t at dim/2 frequencies falling geometrically from 1 to 1/max_period.

    Vaswani et al. 2017, section 3.5, in the arrangement of the DDPM code and of diffusers' `get_timestep_embedding` as
    it stands (its UNet2DModel turns both details round: cosines first, exponent i/half).
    Returns float32 (B, dim) with values in [-1, 1]. Raises ValueError where dim is odd or below 4.
    """
    if dim % 2 or dim < 4:
        raise ValueError(f"dim must be even and at least 4, got {dim}")
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device) / (half - 1))
    angles = t.float()[:, None] * frequencies[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class SinusoidalEmbedding(nn.Module):
    """`sinusoidal_embedding` as a module without parameters: (B,) -> (B, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        return sinusoidal_embedding(t, self.dim)


class LearnedEmbedding(nn.Module):
    """One free vector per timestep, a table of shape (T, dim): (B,) -> (B, dim)."""

    def __init__(self, num_timesteps: int, dim: int):
        super().__init__()
        self.table = nn.Embedding(num_timesteps, dim)

    def forward(self, t: Tensor) -> Tensor:
        return self.table(t)


class FourierFeatures(nn.Module):
    """Sines and cosines of t/T at random, fixed frequencies (Tancik et al. 2020): (B,) -> (B, dim).

    `scale` is the standard deviation of the frequencies, in turns over the whole range of t.
    """

    def __init__(self, num_timesteps: int, dim: int, scale: float = 16.0, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.num_timesteps = num_timesteps
        self.register_buffer("frequencies", scale * torch.randn(dim // 2, generator=generator))

    def forward(self, t: Tensor) -> Tensor:
        angles = 2 * math.pi * (t.float() / self.num_timesteps)[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class RawTimestep(nn.Module):
    """t scaled to [-1, 1], as one number: (B,) -> (B, 1). The simplest thing that could work."""

    def __init__(self, num_timesteps: int):
        super().__init__()
        self.num_timesteps = num_timesteps

    def forward(self, t: Tensor) -> Tensor:
        return (2 * t.float() / max(self.num_timesteps - 1, 1) - 1)[:, None]


class TimestepEmbedding(nn.Module):
    """The embedding the U-Net uses: sinusoidal features, then two linear layers (Ho et al. 2020, appendix B).

    Maps t (B,) to (B, out_dim).
    """

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(nn.Linear(dim, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim))

    def forward(self, t: Tensor) -> Tensor:
        # The features are float32; a model cast to another dtype keeps working.
        return self.layers(sinusoidal_embedding(t, self.dim).to(self.layers[0].weight.dtype))

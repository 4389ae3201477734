"""Telling the network which timestep it looks at: t (B,) with values 0 to T-1 becomes features (B, dim)."""

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


class TimestepEmbedding(nn.Module):
    """The U-Net's embedding of t (B,): sinusoids, two linear layers (Ho et al. 2020, app. B); gives (B, out_dim)."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(nn.Linear(dim, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim))

    def forward(self, t: Tensor) -> Tensor:
        # The features are float32; a model cast to another dtype keeps working.
        return self.layers(sinusoidal_embedding(t, self.dim).to(self.layers[0].weight.dtype))

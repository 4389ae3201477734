"""How probable is an image under a trained model? By the probability-flow ODE (Song et al. 2021, section 4.3).

With cos(phi) = sqrt(alpha-bar_t), x_t = cos(phi) x_0 + sin(phi) noise. In this angle the ODE that DDIM follows is
dx / dphi = v (Salimans & Ho 2022), whatever the network predicts. Along a solution log p changes by minus the
divergence of v, and at the last timestep p is a standard normal.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from utils.diffusion.process import GaussianDiffusion, answer


def v_and_divergence(velocity: Callable[[Tensor], Tensor], x: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """velocity(x), shaped as x, and probe . (dv/dx) probe, (B,), for a velocity that takes each row by itself.

    For a probe of independent +1 and -1 that is right on average as the divergence of v (Hutchinson 1990).
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = velocity(x)
        (gradient,) = torch.autograd.grad((v * probe).sum(), x)
    return v.detach(), (gradient * probe).flatten(1).sum(1)


def log_likelihood(
    model: nn.Module,
    diffusion: GaussianDiffusion,
    x: Tensor,
    y: Tensor | None = None,
    *,
    steps: int = 25,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Log-density, in nats (B,), of the model's ODE at timestep 0, where a trace of noise is left.

    x: floats (B, ...); y: class labels (B,), or None; both on the model's device. generator: of the probes.
    steps: of Heun's method, with two network evaluations and two gradients each.
    Raises ValueError for x that are no floats and for steps outside 1..T-1.
    """
    if not x.is_floating_point():
        raise ValueError(f"log_likelihood takes floats, got {x.dtype}; for 8-bit pixels use bits_per_dimension")
    if steps not in range(1, diffusion.num_timesteps):
        raise ValueError(f"steps must lie in 1..{diffusion.num_timesteps - 1}, got {steps}")
    where = generator.device if generator else x.device
    probe = torch.randint(2, x.shape, generator=generator, device=where).to(x) * 2 - 1

    def velocity(x: Tensor, t: int) -> Tensor:
        ts = torch.full((len(x),), t, device=x.device)
        output, _ = diffusion.split(answer(model, x, ts, y, diffusion.parts))
        signal, sigma = diffusion.signal_and_noise(ts, x)
        return signal * diffusion.to_noise(output, x, ts) - sigma * diffusion.to_x_0(output, x, ts)

    phi = diffusion.schedule.alphas_cumprod.sqrt().acos().tolist()
    gained = x.new_zeros(len(x))
    for t, s in pairwise(angle_grid(phi, int(steps))):
        h = phi[s] - phi[t]
        v, divergence = v_and_divergence(partial(velocity, t=t), x, probe)
        v_ahead, divergence_ahead = v_and_divergence(partial(velocity, t=s), x + h * v, probe)
        x = x + h / 2 * (v + v_ahead)
        gained = gained + h / 2 * (divergence + divergence_ahead)
    return gained - 0.5 * (x.square() + math.log(2 * math.pi)).flatten(1).sum(1)


def angle_grid(phi: list[float], steps: int) -> list[int]:
    """At most steps + 1 timesteps from 0 to T-1, evenly spaced in the cube root of the angle: closest at t = 0."""
    roots = torch.tensor(phi, dtype=torch.float64) ** (1 / 3)
    points = torch.linspace(float(roots[0]), float(roots[-1]), steps + 1, dtype=torch.float64)
    return sorted(set((points[:, None] - roots).abs().argmin(1).tolist()))


def bits_per_dimension(
    model: nn.Module, diffusion: GaussianDiffusion, pixels: Tensor, y: Tensor | None = None, **options
) -> Tensor:
    """Bits per pixel (B,) of uint8 images (B, C, H, W) by `log_likelihood`, which takes the `options`.

    Noise as wide as one of the 256 bins, [-1/2, 1/2), is added first: on average over it the result is an upper bound
    on minus the logarithm of the bin's probability (Theis et al. 2016, section 3.1). Raises ValueError for no uint8.
    """
    if pixels.dtype != torch.uint8:
        raise ValueError(f"bits per dimension are those of uint8 pixels 0..255, got {pixels.dtype}")
    generator = options.get("generator")
    where = generator.device if generator else pixels.device
    noise = torch.rand(pixels.shape, generator=generator, device=where).to(pixels.device) - 0.5
    nats = log_likelihood(model, diffusion, (pixels + noise) / 127.5 - 1, y, **options) / pixels[0].numel()
    return math.log2(127.5) - nats / math.log(2)

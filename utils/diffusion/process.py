"""The diffusion process: adding noise in closed form, its posterior, and the training loss.

Shapes: images x_0 and x_t are (B, C, H, W) with x_0 in [-1, 1]; any other trailing shape works as well.
t is an integer tensor (B,) with values 0 (least noise) to T-1 (most noise).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from utils.diffusion.images import to_float
from utils.diffusion.schedules import NoiseSchedule
from utils.files import check_choice

PREDICTIONS = ("noise", "x_0", "v")
VARIANCES = ("fixed", "learned")
VLB_WEIGHT = 0.001  # lambda of the hybrid loss (Nichol & Dhariwal 2021, eq. 16)


def posterior_weights(a_bar_t, a_bar_s):
    """Weight of x_0, weight of x_t, and variance of q(x_s | x_t, x_0), where s < t.

    a_bar_t and a_bar_s are alpha-bar at t and s, numbers or tensors (T,) in float64, where a_bar_s is 1 for the clean
    image. For s = t - 1 these are eq. 6 and 7 of Ho et al. 2020.
    """
    alpha_ts = a_bar_t / a_bar_s  # alpha_t itself when s = t - 1
    x_0_weight = a_bar_s**0.5 * (1 - alpha_ts) / (1 - a_bar_t)
    x_t_weight = alpha_ts**0.5 * (1 - a_bar_s) / (1 - a_bar_t)
    variance = (1 - alpha_ts) * (1 - a_bar_s) / (1 - a_bar_t)
    return x_0_weight, x_t_weight, variance


class GaussianDiffusion:
    """The forward process q, its posterior, and the loss, for one schedule and one prediction target.

    prediction: what the network outputs: "noise" (Ho et al. 2020), "x_0", or
    "v" = sqrt(alpha-bar) noise - sqrt(1 - alpha-bar) x_0 (Salimans & Ho 2022, section 4); ValueError for another.
    variance: "fixed", or "learned" (Nichol & Dhariwal 2021, section 3.1): the network has twice as many channels out as
    in, UNet(..., out_channels=2 * C), and the second half says where between beta-tilde and beta a step's variance is.
    """

    def __init__(self, schedule: NoiseSchedule, prediction: str = "v", variance: str = "fixed"):
        check_choice("prediction", prediction, PREDICTIONS)
        check_choice("variance", variance, VARIANCES)
        if variance == "learned" and schedule.num_timesteps < 2:
            raise ValueError("a learned variance needs at least 2 timesteps, got 1: in the last step none is added")
        self.schedule, self.prediction, self.variance = schedule, prediction, variance
        self.num_timesteps = schedule.num_timesteps
        self.parts = 2 if variance == "learned" else 1  # how many channels the network answers for one of the images

    def at(self, t: Tensor, like: Tensor, *tables: Tensor) -> list[Tensor]:
        """table[t] of each table (T,), float32 (float64 where `like` is), shaped (B, 1, ...) to multiply `like`.

        Raises ValueError where t is not an integer tensor (B,), or, on the CPU, lies outside 0..T-1.
        """
        if not isinstance(t, Tensor) or t.dtype.is_floating_point or t.shape != (len(like),):
            raise ValueError(f"t must be an integer tensor of shape ({len(like)},), one timestep per image; got {t!r}")
        outside = t[(t < 0) | (t >= self.num_timesteps)] if t.device.type == "cpu" else []  # a GPU would have to wait
        if len(outside):
            T = self.num_timesteps
            raise ValueError(f"t must lie in 0..{T - 1} (T = {T}), got {int(outside[0])}")
        dtype = torch.promote_types(like.dtype, torch.float32)
        # Converted on the CPU, since some devices have no float64, and moved when used: a few kilobytes.
        return [table.to(dtype).to(t.device)[t].view(-1, *[1] * (like.ndim - 1)) for table in tables]

    def signal_and_noise(self, t: Tensor, like: Tensor) -> list[Tensor]:
        """sqrt(alpha-bar_t) and sigma_t = sqrt(1 - alpha-bar_t), as `at` shapes them."""
        a_bar = self.schedule.alphas_cumprod
        return self.at(t, like, a_bar.sqrt(), (1 - a_bar).sqrt())

    def q_sample(self, x_0: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """x_t ~ q(x_t | x_0): sqrt(alpha-bar_t) x_0 + sqrt(1 - alpha-bar_t) noise (Ho et al. 2020, eq. 4).

        `noise` is standard normal with the shape of x_0; drawn when not given. Raises ValueError for t as `at` does.
        """
        noise = torch.randn_like(x_0) if noise is None else noise
        signal, sigma = self.signal_and_noise(t, x_0)
        return signal * x_0 + sigma * noise

    def q_posterior(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (shape of x_t) and variance (B, 1, ...) of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 6 and 7)."""
        tables = posterior_weights(self.schedule.alphas_cumprod, self.schedule.alphas_cumprod_prev)
        x_0_weight, x_t_weight, variance = self.at(t, x_t, *tables)
        return x_0_weight * x_0 + x_t_weight * x_t, variance

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should output for x_t = q_sample(x_0, t, noise); shape of x_0."""
        if self.prediction == "noise":
            return noise
        if self.prediction == "x_0":
            return x_0
        signal, sigma = self.signal_and_noise(t, x_0)
        return signal * noise - sigma * x_0

    def to_x_0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The x_0 that a network output stands for at (x_t, t); shape of x_t, not clipped."""
        signal, sigma = self.signal_and_noise(t, x_t)
        if self.prediction == "noise":
            return (x_t - sigma * output) / signal
        if self.prediction == "x_0":
            return output
        return signal * x_t - sigma * output

    def to_noise(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise that a network output stands for at (x_t, t); shape of x_t."""
        signal, sigma = self.signal_and_noise(t, x_t)
        if self.prediction == "noise":
            return output
        if self.prediction == "x_0":
            return (x_t - signal * output) / sigma
        return sigma * x_t + signal * output

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | float]:
        """The prediction, and where the variance is: 0 (beta-tilde) to 1 (beta), from the second half's -1 to 1."""
        if self.variance == "fixed":
            return output, 0.0
        prediction, between = output.chunk(2, dim=1)
        return prediction, (between + 1) / 2

    def bound_terms(self, guess: Tensor, fraction: Tensor | float, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The term at t of the variational bound, in bits per dimension (B,). Added over all t they are the bound.

        For t > 0 the divergence from q(x_{t-1} | x_t, x_0) to the reverse step (Ho et al. 2020, eq. 5), at t = 0 the
        bits of the 8-bit pixels (eq. 13). The term of x_T, which no network can change, is left out.
        fraction: 0 for the variance beta-tilde, 1 for beta, or what `split` returns (Nichol & Dhariwal 2021, eq. 15).
        """
        normal = partial(Normal, validate_args=False)  # a loss that is not a number is the caller's to find
        true_mean, _ = self.q_posterior(x_0, x_t, t)
        mean, _ = self.q_posterior(guess, x_t, t)
        _, small = self.q_posterior(x_0, x_t, t.clamp(min=1))  # t = 0 has none, and takes that of t = 1
        (large,) = self.at(t, x_t, self.schedule.betas)
        step = normal(mean, (small ** (1 - fraction) * large**fraction).sqrt())
        divergence = kl_divergence(normal(true_mean, small.sqrt()), step)
        is_first = t.view(small.shape) == 0
        return torch.where(is_first, -log_8_bit(step, x_0), divergence).flatten(1).mean(1) / math.log(2)

    def loss(
        self,
        model: nn.Module,
        x_0: Tensor,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        y: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Mean squared error between the network's output and its target (Ho et al. 2020, Algorithm 1).

        With prediction "noise" this is their eq. 14, averaged over the pixels instead of summed. With "v" the error
        of x_0 counts SNR + 1 times, with "x_0" once, with "noise" SNR times (Salimans & Ho 2022, section 4). A learned
        variance adds 0.001 times the bound, in bits per dimension, which does not reach the mean (Nichol & Dhariwal
        2021, eq. 16). It is the bound for t drawn uniformly.

        model: called as model(x_t, t), or model(x_t, t, y) when class labels y (B,) are given.
        x_0: clean images (B, C, H, W) in [-1, 1], or uint8 0..255.
        t, noise: drawn uniformly over 0..T-1 and from a standard normal when not given.
        reduction: "mean" gives a scalar, "none" one value per image (B,).
        Raises ValueError where the network's answer has another shape than x_0, and for t as `at` does.
        """
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")
        x_0 = to_float(x_0)
        t = torch.randint(self.num_timesteps, (len(x_0),), device=x_0.device) if t is None else t
        noise = torch.randn_like(x_0) if noise is None else noise
        x_t = self.q_sample(x_0, t, noise)
        # The error is taken in float32 also where the network ran in a shorter format.
        output, fraction = self.split(answer(model, x_t, t, y, self.parts))
        error = (output - self.target(x_0, noise, t)).square().flatten(1).mean(1)
        if self.variance == "learned":
            terms = self.bound_terms(self.to_x_0(output.detach(), x_t, t), fraction, x_0, x_t, t)
            error = error + VLB_WEIGHT * self.num_timesteps * terms  # times T: one term stands for those of all t
        return error.mean() if reduction == "mean" else error


def first_weight(model: Callable, default: Tensor) -> Tensor:
    """The network's first weight, which tells its device and format; `default` for a function without weights."""
    return next(iter(model.parameters()), default) if isinstance(model, nn.Module) else default


def log_8_bit(pixel: Normal, x_0: Tensor) -> Tensor:
    """log of `pixel`'s part in the bin of x_0's 8-bit value; the outer bins have no end (Ho et al. 2020, eq. 13)."""
    upper = torch.where(x_0 > 0.999, 1.0, pixel.cdf(x_0 + 1 / 255))
    lower = torch.where(x_0 < -0.999, 0.0, pixel.cdf(x_0 - 1 / 255))
    return (upper - lower).clamp(min=1e-12).log()


def answer(model: nn.Module, x_t: Tensor, t: Tensor, y: Tensor | None, parts: int = 1) -> Tensor:
    """What the network says, in the format of x_t; it sees x_t in that of its weights, which may be shorter.

    The answer has the shape of x_t, with `parts` times the channels.
    """
    expected = (len(x_t), parts * x_t.shape[1], *x_t.shape[2:])
    x = x_t.to(first_weight(model, x_t).dtype)
    output = model(x, t) if y is None else model(x, t, torch.as_tensor(y, device=t.device))
    if not isinstance(output, Tensor) or output.shape != expected:
        seen = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        shape = "the images' shape" if parts == 1 else "twice the images' channels, for a learned variance:"
        raise ValueError(f"the network must return a tensor of {shape} {expected}, got {seen}")
    return output.to(x_t.dtype)

"""Sampling: from noise to images, one loop for all samplers.

    for state in sample(model, diffusion, (64, 1, 28, 28), sampler="ddim", steps=50):
        ...                                   # state.x_t, state.x_0: the image now, and its estimated end

A sampler is a function of one step: from x_t and the network's estimate of x_0 to x_s at an earlier timestep s < t.
Written with alpha-bar, a step may jump over any number of timesteps. A sampler of one's own can be handed to `sample`.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from utils.diffusion.checks import as_labels, check_labels, check_numbers
from utils.diffusion.guidance import ClassifierFreeGuidance
from utils.diffusion.process import GaussianDiffusion, answer, first_weight, posterior_weights
from utils.files import stream_seed


class SampleState(NamedTuple):
    """After one network evaluation: the image at the next timestep, and the estimate that led there.

    x_t: (B, C, H, W), the sample itself after the last step. x_0: the estimate, clipped if clipping is on.
    t: the timestep the network looked at. step: evaluations so far, 1 to `steps`.
    """

    x_t: Tensor
    x_0: Tensor
    t: int
    step: int


# x_t, x_0: (B, C, H, W), the image and the estimate of its end. a_bar_t, a_bar_s: numbers, alpha-bar now and after the
# step; a_bar_s is 1 for the last one. z: standard normal noise of that shape. previous: (x_0, alpha-bar) of the step
# before, None at first.


def ddpm_step(x_t, x_0, a_bar_t, a_bar_s, z, previous=None, fraction=0.0):
    """A draw from q(x_s | x_t, x_0) (Ho et al. 2020, eq. 6 and 7, for s = t - 1: Algorithm 2).

    fraction: where the variance lies between beta-tilde, 0, and beta, 1, on a log scale (Nichol & Dhariwal 2021, eq.
    15): a number, or a tensor of the shape of x_0.
    """
    x_0_weight, x_t_weight, variance = posterior_weights(a_bar_t, a_bar_s)
    std = math.sqrt(variance)
    if a_bar_s < 1:  # the last step adds no noise
        std = std * ((1 - a_bar_t) / (1 - a_bar_s)) ** (fraction / 2)  # the ratio is beta / beta-tilde
    return x_0_weight * x_0 + x_t_weight * x_t + std * z


def ddim_step(x_t, x_0, a_bar_t, a_bar_s, z, previous=None, eta=0.0):
    """Song et al. 2020, eq. 12 and 16: eta = 0 adds no noise, eta = 1 has the variance of `ddpm_step`.

    The noise is the one that belongs to x_0 as it is here, so to the clipped estimate where clipping is on; diffusers
    does this with `use_clipped_model_output=True`.
    """
    noise = (x_t - math.sqrt(a_bar_t) * x_0) / math.sqrt(1 - a_bar_t)
    # max: the bracket is negative only where DDIM runs backwards, and eta is 0 there
    sigma_tilde = eta * math.sqrt(max(0.0, (1 - a_bar_s) / (1 - a_bar_t) * (1 - a_bar_t / a_bar_s)))
    direction = math.sqrt(max(0.0, 1 - a_bar_s - sigma_tilde**2)) * noise
    return math.sqrt(a_bar_s) * x_0 + direction + sigma_tilde * z


def dpmpp_2m_step(x_t, x_0, a_bar_t, a_bar_s, z, previous):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2): a line through two x_0 estimates.

    The first step has one estimate only, and so has the last, which ends at the estimate itself.
    """
    if a_bar_s == 1:
        return x_0
    h, line = half_log_snr(a_bar_s) - half_log_snr(a_bar_t), x_0
    if previous is not None:
        x_0_before, a_bar_before = previous
        h_before = half_log_snr(a_bar_t) - half_log_snr(a_bar_before)
        line = x_0 + h / (2 * h_before) * (x_0 - x_0_before)
    return math.sqrt((1 - a_bar_s) / (1 - a_bar_t)) * x_t - math.sqrt(a_bar_s) * math.expm1(-h) * line


def consistency_step(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    """Fresh noise on the estimate, up to the level of s (Song et al. 2023, Algorithm 1): nothing of x_t is kept.

    For a distilled network, whose estimate is an image and not a mean of images (`utils.diffusion.distill`).
    """
    return math.sqrt(a_bar_s) * x_0 + math.sqrt(1 - a_bar_s) * z


def half_log_snr(a: float) -> float:
    """lambda of the DPM-Solver papers: log(sqrt(alpha-bar) / sqrt(1 - alpha-bar))."""
    return 0.5 * math.log(a / (1 - a))


SAMPLERS = {"ddpm": ddpm_step, "ddim": ddim_step, "dpmpp_2m": dpmpp_2m_step, "consistency": consistency_step}
DEFAULT_STEPS = {"ddpm": 1000, "ddim": 50, "dpmpp_2m": 20, "consistency": 4}


def timestep_grid(num_timesteps: int, steps: int) -> list[int]:
    """1 to T timesteps from T-1 downwards, evenly spaced ("trailing" in diffusers; Lin et al. 2023, Table 2)."""
    if steps not in range(1, num_timesteps + 1):
        raise ValueError(f"steps must lie in 1..{num_timesteps}, the timesteps of the schedule; got {steps}")
    return [round(num_timesteps * (1 - k / steps)) - 1 for k in range(int(steps))]


@torch.no_grad()
def sample(
    model: nn.Module,
    diffusion: GaussianDiffusion,
    shape: tuple[int, ...],
    *,
    sampler: str | Callable[..., Tensor] = "ddpm",
    steps: int | None = None,
    eta: float = 0.0,
    clip: bool | Callable[[Tensor], Tensor] = True,
    y: Tensor | None = None,
    guidance: float | Callable | None = None,
    x_T: Tensor | None = None,
    constrain: Callable[[Tensor, float], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[SampleState]:
    """Denoise from x_T to images, yielding a SampleState after every network evaluation.

    model: the work is done where its weights are, or where x_T is if it is a function.
    shape: (B, C, H, W) of the images.
    sampler: "ddpm" (ancestral), "ddim" (with eta), "dpmpp_2m", "consistency" (for networks distilled so), or a function
        like `ddpm_step`.
    steps: network evaluations, 1 to T; by default 1000, 50, 20, 4, and 50 for a function, at most T; for a distilled
        network the most that it was made for.
    eta: how much fresh noise DDIM adds, 0 to 1; the others take 0 only.
    clip: clamp the estimate of x_0 to [-1, 1] in every step; or a function of it, such as `dynamic_threshold`.
    y: class labels (B,), or None.
    guidance: a number w, classifier-free guidance: (1 - w) times the answer without a label plus w times that for y, so
        1 changes nothing; or an object of `utils.diffusion.guidance`.
    x_T: where to start, of `shape`; drawn from a standard normal when not given.
    constrain: called as constrain(x_s, alpha-bar_s) after each step, returns x_s; see `keep_known`.
    generator: source of all noise; its device is where noise is drawn.
    Raises ValueError for an unknown sampler, for steps or eta outside their range, for a sampler or steps that a
    distilled network was not made for, and for y or x_T of another shape. Guidance raises it where it has no labels, no
    classes, or numbers outside their range.
    """
    step = _find_step(sampler, eta)
    if x_T is not None and tuple(x_T.shape) != tuple(shape):
        raise ValueError(f"x_T has shape {tuple(x_T.shape)}, expected {tuple(shape)}")
    like = torch.empty(0) if x_T is None else x_T
    dtype, device = like.dtype, first_weight(model, like).device
    if y is not None:
        y = as_labels(y, shape[0])
        if getattr(model, "num_classes", None) is not None:
            check_labels(y, model.num_classes, True, getattr(model, "encoder_name", None))  # before a GPU has them
        y = y.to(device)
    made_for = getattr(model, "distilled", None)
    if steps is None:
        usual = min(DEFAULT_STEPS.get(sampler, 50), diffusion.num_timesteps)
        steps = made_for["evaluations"][-1] if made_for else usual
    _check_distilled(made_for, sampler, steps)
    grid = timestep_grid(diffusion.num_timesteps, steps)
    alphas_cumprod = [*diffusion.schedule.alphas_cumprod.tolist(), 1.0]  # index -1: no noise is left
    x_t = _normal(shape, generator, device, dtype) if x_T is None else x_T.to(device)
    if guidance is not None and not callable(guidance):
        guidance = ClassifierFreeGuidance(guidance)
    network = model if guidance is None else guidance(model, diffusion)
    clip = partial(torch.clamp, min=-1, max=1) if clip is True else clip
    previous, was_training = None, getattr(model, "training", False)
    try:
        if was_training:
            model.eval()
        for k, (t, s) in enumerate(zip(grid, [*grid[1:], -1])):
            a_bar_t, a_bar_s = alphas_cumprod[t], alphas_cumprod[s]
            ts = torch.full((len(x_t),), t, device=device)
            output, fraction = diffusion.split(answer(network, x_t, ts, y, diffusion.parts))
            x_0 = diffusion.to_x_0(output, x_t, ts)
            x_0 = clip(x_0) if clip else x_0
            options = {"fraction": fraction} if step is ddpm_step else {}
            x_t = step(x_t, x_0, a_bar_t, a_bar_s, _normal(shape, generator, device, dtype), previous, **options)
            if constrain is not None:
                x_t = constrain(x_t, a_bar_s)
            previous = x_0, a_bar_t
            yield SampleState(x_t, x_0, t, k + 1)
    finally:
        if was_training:
            model.train()


def _find_step(sampler: str | Callable[..., Tensor], eta: float) -> Callable[..., Tensor]:
    if not callable(sampler) and sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; choose one of {', '.join(SAMPLERS)}, or give a function")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in 0..1 (0: no fresh noise, 1: as much as DDPM), got {eta}")
    if eta and sampler != "ddim":
        raise ValueError(f"eta = {eta} is a setting of 'ddim', {sampler!r} has no use for it; leave it out")
    return partial(ddim_step, eta=eta) if eta else SAMPLERS.get(sampler, sampler)


def _check_distilled(made_for: dict | None, sampler: str | Callable[..., Tensor], steps: int) -> None:
    """A distilled network knows the timesteps of some numbers of evaluations only; None for any other network."""
    if made_for is None:
        return
    known = f"{', '.join(map(str, made_for['evaluations']))} evaluations by sampler {made_for['sampler']!r}"
    if steps not in made_for["evaluations"]:
        raise ValueError(f"this network is distilled, for {known}; got steps = {steps}")
    if not callable(sampler) and sampler != made_for["sampler"]:
        raise ValueError(f"this network is distilled, for {known}; got sampler {sampler!r}")


def _normal(shape: tuple[int, ...], generator: torch.Generator | None, device, dtype: torch.dtype) -> Tensor:
    """Standard normal noise, drawn where the generator is: one on the CPU gives the same numbers for every device."""
    where = generator.device if generator else device
    return torch.randn(shape, generator=generator, device=where, dtype=dtype).to(device)


@torch.no_grad()
def generate(
    model: nn.Module,
    diffusion: GaussianDiffusion,
    count: int,
    image_shape: tuple[int, int, int] = (1, 28, 28),
    *,
    batch_size: int = 250,
    y: Tensor | None = None,
    seed: int = 0,
    progress: bool = False,
    decode: Callable[[Tensor], Tensor] | None = None,
    **options,
) -> Tensor:
    """`count` finished images (count, C, H, W) on the CPU, clamped to [-1, 1], drawn batch by batch.

    decode: makes images of what are latents, which are not clipped. `options` are those of `sample`; the same seed and
    batch size give the same images. Raises ValueError as `sample` does, and for a count or batch size below 1.
    """
    seed = check_numbers(count=count, batch_size=batch_size, seed=seed)["seed"]
    y = None if y is None else as_labels(y, count)
    seed = seed if 0 <= seed < 2**32 else stream_seed(seed, "generator")  # a CPU's generator reads 32 bits alone
    rng, batches = torch.Generator().manual_seed(seed), []
    with tqdm(total=count, desc="sampling", unit="image", leave=False, disable=not progress or None) as bar:
        for part in torch.arange(count).split(batch_size):
            shape, labels = (len(part), *image_shape), None if y is None else y[part]
            for state in sample(model, diffusion, shape, y=labels, generator=rng, **{"clip": not decode} | options):
                last = state.x_t
            batches.append((decode(last) if decode else last).clamp(-1, 1).cpu())
            bar.update(len(part))
    return torch.cat(batches)


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Spherical interpolation between two noise tensors of one shape: weight 0 gives a, 1 gives b.

    A straight line between two Gaussian draws is shorter in the middle, so its variance is too small.
    """
    angle = torch.acos(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).clamp(-1, 1))
    if angle.abs() < 1e-4:
        return (1 - weight) * a + weight * b
    return (torch.sin((1 - weight) * angle) * a + torch.sin(weight * angle) * b) / torch.sin(angle)


def keep_known(known: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> Callable:
    """A `constrain` for inpainting: where mask is 1, x_s is replaced by the known image at that noise level.

    known: (B, C, H, W) in [-1, 1]; mask: broadcastable to it, 1 where the image is known. Lugmayr et al. 2022
    (RePaint), eq. 8, without its resampling.
    """

    def constrain(x_s: Tensor, a_bar_s: float) -> Tensor:
        noise = _normal(known.shape, generator, x_s.device, x_s.dtype)
        noisy = math.sqrt(a_bar_s) * known.to(x_s) + math.sqrt(1 - a_bar_s) * noise
        return torch.where(mask.to(x_s.device).bool(), noisy, x_s)

    return constrain

"""Distillation: a student that tells in one evaluation where many of the teacher's lead.

    trajectories = draw_trajectories(teacher, diffusion, 20_000)
    for state in distill(student, diffusion, trajectories, steps=5000):
        ...                                                      # state.step, state.loss, state.ema_model

The teacher's probability-flow equation takes each noise x_T to one image. From places on this trajectory the student
learns, by the loss of training itself, either its end: a consistency function (Song et al. 2023), learned from stored
ones as Luhman & Luhman 2021 learned that of x_T alone; or, with jumps=N, the next of N places (Salimans & Ho 2022).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from utils.device import autocast, find_device, find_precision
from utils.diffusion.checks import check_numbers
from utils.diffusion.process import GaussianDiffusion, first_weight
from utils.diffusion.sampling import sample, timestep_grid
from utils.diffusion.training import Settings, TrainState, descend, learning_rate, make_accelerator, prepare
from utils.files import stream_seed

STOPS = 8  # the places: x_t at the timesteps of eight evaluations, among which are those of four, two and one
EVALUATIONS = [1, 2, 4, 8]
FROM_NOISE = 0.5  # share of a batch that is x_T for certain, from where the end is hardest to tell


class Trajectories(NamedTuple):
    """x: float16 (N, STOPS + 1, C, H, W), from noise to image. y: labels (N,), or None without classes."""

    x: Tensor
    y: Tensor | None


def draw_trajectories(
    teacher: nn.Module,
    diffusion: GaussianDiffusion,
    count: int,
    image_shape: tuple[int, ...] = (1, 28, 28),
    *,
    steps: int = 24,
    clip: bool = True,
    batch_size: int = 250,
    seed: int = 0,
    progress: bool = True,
) -> Trajectories:
    """`count` trajectories from noise to image, by DPM-Solver++(2M) with `steps` evaluations.

    They are computed in the device's fast precision. Labels are random, a tenth of them hidden. The random numbers are
    those of no `generate`. Raises ValueError where steps is not a multiple of 8, or for prompts.
    """
    if steps % STOPS or steps < 1:
        raise ValueError(f"steps must be a multiple of {STOPS}, the places that are kept; got {steps}")
    if getattr(teacher, "encoder_name", None):
        raise ValueError("a network that is told prompts cannot be distilled here: labels are drawn as classes")
    check_numbers(count=count, batch_size=batch_size, seed=seed)
    device, classes = first_weight(teacher, torch.empty(0)).device, getattr(teacher, "num_classes", None)
    trajectories, labels, options = [], [], dict(sampler="dpmpp_2m", steps=steps, clip=clip)
    parts = torch.arange(count).split(batch_size)
    for part in tqdm(parts, desc="trajectories", leave=False, disable=not progress or None):
        generator = torch.Generator().manual_seed(stream_seed(seed, "trajectories", int(part[0])))
        y, hidden = None, torch.rand(len(part), generator=generator) < Settings.label_dropout
        if classes is not None:
            y = torch.randint(classes, (len(part),), generator=generator).masked_fill(hidden, classes)
            labels.append(y)
        x_T = torch.randn(len(part), *image_shape, generator=generator)
        with autocast(device, find_precision(device)):
            states = sample(teacher, diffusion, x_T.shape, y=y, x_T=x_T.to(device), **options)
            places = [x_T] + [state.x_t.cpu() for state in states if state.step % (steps // STOPS) == 0]
        trajectories.append(torch.stack(places, dim=1).half())
    return Trajectories(torch.cat(trajectories), torch.cat(labels) if labels else None)


def paired_noise(diffusion: GaussianDiffusion, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
    """The noise with which `q_sample` makes of x_0 the very x_t; shape of x_t."""
    signal, sigma = diffusion.signal_and_noise(t, x_t)
    return (x_t - signal * x_0) / sigma


def landing(diffusion: GaussianDiffusion, x_t: Tensor, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The x_0 with which a step of DDIM from x_t lands on x_s (Salimans & Ho 2022, Algorithm 2); shape of x_t.

    t, s: timesteps (B,), s < t; -1 is the end, and the x_0 then x_s itself.
    """
    is_end = (s < 0).view(-1, *[1] * (x_t.ndim - 1))
    (signal, sigma), (signal_s, sigma_s) = (diffusion.signal_and_noise(at, x_t) for at in (t, s.clamp(min=0)))
    kept = torch.where(is_end, 0.0, sigma_s / sigma)  # of x_t
    return (x_s - kept * x_t) / (torch.where(is_end, 1.0, signal_s) - kept * signal)


def draw_pairs(
    trajectories: Trajectories, diffusion: GaussianDiffusion, count: int, step: int, seed: int, jumps: int | None = None
):
    """x_t, where to land, t, s and y of one batch of `count`; each depends on seed and step alone."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "distill", step))
    places = STOPS if jumps is None else jumps
    index, start = (torch.randint(n, (count,), generator=generator) for n in (len(trajectories.x), places))
    start = start * (STOPS // places)
    if jumps is None:
        start[torch.rand(count, generator=generator) < FROM_NOISE] = 0
    goal = torch.full_like(start, STOPS) if jumps is None else start + STOPS // jumps
    times = torch.tensor([*timestep_grid(diffusion.num_timesteps, STOPS), -1])
    y = None if trajectories.y is None else trajectories.y[index]
    return trajectories.x[index, start].float(), trajectories.x[index, goal].float(), times[start], times[goal], y


def distill(
    student: nn.Module,
    diffusion: GaussianDiffusion,
    trajectories: Trajectories,
    *,
    steps: int,
    jumps: int | None = None,
    device: torch.device | str | None = None,
    precision: str | None = None,
    progress: bool = True,
    **settings,
) -> Iterator[TrainState]:
    """Train `student`, best begun with the teacher's weights, in place; a TrainState after every step, as `train` does.

    jumps: None, to tell the ends of the trajectories; the averaged network is then for the numbers of EVALUATIONS by
        the sampler "consistency". Or 1, 2, 4 or 8, to tell the next of so many places, for as many evaluations by
        "ddim". Its attribute `distilled` says which. ValueError for another number.
    settings: those of `Settings` that are not about images: batch_size, learning_rate, seed, ...
    """
    if jumps not in (None, *EVALUATIONS):
        raise ValueError(f"jumps must be None or one of {', '.join(map(str, EVALUATIONS))}, got {jumps}")
    recipe = Settings(**settings)
    accelerator = make_accelerator(find_device(device), precision)
    state = prepare(student, accelerator, recipe.muon)
    sampler, evaluations = ("ddim", [jumps]) if jumps else ("consistency", EVALUATIONS)
    state.ema_model.distilled = {"sampler": sampler, "evaluations": evaluations}
    try:
        for step in tqdm(range(steps), desc="distilling", leave=False, disable=not progress or None):
            state.learning_rate = learning_rate(recipe, step, step / steps, steps)
            pairs = draw_pairs(trajectories, diffusion, recipe.batch_size, step, recipe.seed, jumps)
            x_t, x_s, t, s, y = (None if part is None else part.to(accelerator.device) for part in pairs)
            x_0 = landing(diffusion, x_t, x_s, t, s)
            with accelerator.autocast():
                loss = diffusion.loss(state.network, x_0, t, paired_noise(diffusion, x_t, x_0, t), y)
            descend(state, loss, recipe, accelerator)
            yield state
    finally:  # the caller has the network as it was given, without accelerate's wrappers
        accelerator.unwrap_model(state.network, keep_fp32_wrapper=False)
        accelerator.free_memory()

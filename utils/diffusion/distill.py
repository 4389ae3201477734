"""Distillation: a student that tells in one evaluation where the teacher's many end.

    trajectories = draw_trajectories(teacher, diffusion, 20_000)
    for state in distill(student, diffusion, trajectories, steps=5000):
        ...                                                      # state.step, state.loss, state.ema_model

The teacher's probability-flow equation takes each noise x_T to one image. From some places on the way the student
learns its end, by the loss of training itself: a consistency function (Song et al. 2023), learned from stored ways as
Luhman & Luhman 2021 learned that of x_T alone.
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
FROM_NOISE = (
    0.5  # share of a batch that is x_T, from where the end is hardest to tell; the rest is at any of the places
)


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
    """`count` ways from noise to image by DPM-Solver++(2M) with `steps` evaluations, in the device's fast precision.

    Labels are random, a tenth of them hidden. The random numbers are those of no `generate`. Raises ValueError where
    steps is not a multiple of 8, the places that are kept.
    """
    if steps % STOPS or steps < 1:
        raise ValueError(f"steps must be a multiple of {STOPS}, the places that are kept; got {steps}")
    check_numbers(count=count, batch_size=batch_size, seed=seed)
    device, classes = first_weight(teacher, torch.empty(0)).device, getattr(teacher, "num_classes", None)
    ways, labels, options = [], [], dict(sampler="dpmpp_2m", steps=steps, clip=clip)
    for part in tqdm(
        torch.arange(count).split(batch_size), desc="trajectories", leave=False, disable=not progress or None
    ):
        generator = torch.Generator().manual_seed(stream_seed(seed, "trajectories", int(part[0])))
        y, hidden = None, torch.rand(len(part), generator=generator) < Settings.label_dropout
        if classes is not None:
            y = torch.randint(classes, (len(part),), generator=generator).masked_fill(hidden, classes)
            labels.append(y)
        x_T = torch.randn(len(part), *image_shape, generator=generator)
        with autocast(device, find_precision(device)):
            states = sample(teacher, diffusion, x_T.shape, y=y, x_T=x_T.to(device), **options)
            way = [x_T] + [state.x_t.cpu() for state in states if state.step % (steps // STOPS) == 0]
        ways.append(torch.stack(way, dim=1).half())
    return Trajectories(torch.cat(ways), torch.cat(labels) if labels else None)


def paired_noise(diffusion: GaussianDiffusion, x_t: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """The noise with which `q_sample` makes of the image `end` the very x_t; shape of x_t."""
    signal, sigma = diffusion.signal_and_noise(t, x_t)
    return (x_t - signal * end) / sigma


def draw_pairs(trajectories: Trajectories, diffusion: GaussianDiffusion, count: int, step: int, seed: int):
    """x_t, the end of its way, t and y of one batch of `count`; each depends on seed and step alone."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "distill", step))
    index, stop = (torch.randint(n, (count,), generator=generator) for n in (len(trajectories.x), STOPS))
    stop[torch.rand(count, generator=generator) < FROM_NOISE] = 0
    t = torch.tensor(timestep_grid(diffusion.num_timesteps, STOPS))[stop]
    y = None if trajectories.y is None else trajectories.y[index]
    return trajectories.x[index, stop].float(), trajectories.x[index, -1].float(), t, y


def distill(
    student: nn.Module,
    diffusion: GaussianDiffusion,
    trajectories: Trajectories,
    *,
    steps: int,
    device: torch.device | str | None = None,
    precision: str | None = None,
    progress: bool = True,
    **settings,
) -> Iterator[TrainState]:
    """Train `student`, best begun with the teacher's weights, in place; a TrainState after every step, as `train` does.

    settings: those of `Settings` that are not about images: batch_size, learning_rate, seed, ... The averaged network
    is for the steps of EVALUATIONS by the sampler "consistency"; its attribute `evaluations` says so.
    """
    recipe = Settings(**settings)
    accelerator = make_accelerator(find_device(device), precision)
    state = prepare(student, accelerator, recipe.muon)
    state.ema_model.evaluations = EVALUATIONS
    for step in tqdm(range(steps), desc="distilling", leave=False, disable=not progress or None):
        state.learning_rate = learning_rate(recipe, step, step / steps, steps)
        pairs = draw_pairs(trajectories, diffusion, recipe.batch_size, step, recipe.seed)
        x_t, end, t, y = (None if part is None else part.to(accelerator.device) for part in pairs)
        with accelerator.autocast():
            loss = diffusion.loss(state.network, end, t, paired_noise(diffusion, x_t, end, t), y)
        descend(state, loss, recipe, accelerator)
        yield state
    accelerator.unwrap_model(state.network, keep_fp32_wrapper=False)
    accelerator.free_memory()

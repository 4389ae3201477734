"""Training (Ho et al. 2020, Algorithm 1) as a generator: the caller owns plots and logging.

    for state in train(model, diffusion, images, steps=1000):
        ...                                     # state.step, state.loss, state.ema_model

All random numbers of a step come from (seed, step), so a training that was stopped goes on with the batches, timesteps,
noise and dropout masks it would have had. One code path for CPU, GPU, mixed precision and several processes, through
Hugging Face accelerate.
"""

import copy
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from tqdm.auto import tqdm

from utils.device import DTYPES, find_device, find_precision
from utils.diffusion.batches import Images, batch_at, look_through, take
from utils.diffusion.checkpoints import TrainingFolder, describe, one_in_a_folder, unwrap
from utils.diffusion.checks import check_labels, check_numbers
from utils.diffusion.muon import Muon
from utils.diffusion.process import GaussianDiffusion
from utils.files import TrainingDiverged, stream_seed


@dataclass(frozen=True)
class Settings:
    """The recipe, which has to stay the same when a training resumes; ValueError for a number outside its range."""

    batch_size: int = 64  # images in a step, over all processes; at most as many as there are
    learning_rate: float = 2e-3  # Muon's and Adam's, once it is warmed up
    muon: bool = True  # orthogonal steps for the weight matrices inside the network; else all weights are Adam's
    warmup: int = 100  # steps, at most a tenth of all
    decay: bool = True  # whether the learning rate then falls along a cosine to 0
    middle: float = 0.75  # share of the timesteps that lie about the middle noise levels; the others are uniform
    max_gradient_norm: float | None = 1.0  # gradients are scaled down to it; None leaves them
    ema_decay: float = 0.999  # of the average of the weights, warmed up as (1 + step) / (10 + step)
    label_dropout: float = 0.1  # how often a label is hidden, 0 to 1, where the network has classes
    seed: int = 0  # of the order of the images, timesteps, noise, hidden labels and dropout masks

    def __post_init__(self) -> None:
        vars(self).update(check_numbers(**vars(self)))


@dataclass
class TrainState:
    """Where training stands after a step; networks and optimizer are the living objects, not copies."""

    model: nn.Module
    ema_model: nn.Module
    network: nn.Module  # the model as accelerate wraps it
    optimizer: torch.optim.Optimizer
    step: int = 0  # finished ones
    loss: float = math.nan  # of the last batch, at the t drawn for it; those of validation_loss are spread evenly
    learning_rate: float = 0.0
    gradient_norm: float = math.nan
    seconds: float = 0.0  # spent training, over all resumed parts
    validation_loss: float | None = None  # the latest one measured, by the EMA weights
    saved: int | None = None  # the step of the last saved state
    whole: bool = True  # not while the weights move


@one_in_a_folder
def train(
    model: nn.Module,
    diffusion: GaussianDiffusion,
    images: Images,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    validation: Images | None = None,
    validate_every: int = 200,
    out: str | Path | None = None,
    save_every: int = 200,
    device: torch.device | str | None = None,
    precision: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Iterator[TrainState]:
    """Train `model` in place and yield a TrainState after every step.

    images: an ImageSet, a tensor (N, C, H, W), or a map-style Dataset of images or (image, label) pairs; float in
        [-1, 1], or uint8 0..255. Labels, 0 to classes - 1, are used where the network has classes.
    steps, minutes: how long; give exactly one.
    validation: images for the validation loss, measured every `validate_every` steps.
    out: a folder; the state is saved there every `save_every` steps and when the loop is left or interrupted, and
        model.safetensors (EMA weights) at the end. Training resumes from it, first yielding the restored state.
    precision: "no" (fp32), "bf16" or "fp16"; what is fast on the device when not given.
    settings: those of `Settings`, such as batch_size=64. With a learned variance `middle` is 0 when not given, since
        its loss is a sum over all timesteps.
    Raises ValueError: bad arguments, images not in [-1, 1], or a saved state of other settings. TrainingDiverged: the
    loss or the gradient became NaN or infinite. OSError: `out` cannot be written, or another process trains in it.
    """
    if (steps is None) == (minutes is None):
        raise ValueError(f"give steps or minutes, one of the two; got steps={steps}, minutes={minutes}")
    counts = dict(steps=steps, minutes=minutes, save_every=save_every, validate_every=validate_every)
    steps, minutes, save_every, validate_every = check_numbers(**counts).values()
    if diffusion.variance == "learned":
        settings = {"middle": 0.0} | settings
    recipe, network = Settings(**settings), unwrap(model)
    x_0, y = look_through(images, network)
    if validation is not None and (other := look_through(validation, network)[0].shape[1:]) != x_0.shape[1:]:
        raise ValueError(f"validation images are {tuple(other)}, but the images {tuple(x_0.shape[1:])}; resize them")
    recipe = replace(recipe, batch_size=min(recipe.batch_size, len(images)))
    accelerator = make_accelerator(find_device(device), precision)
    if recipe.batch_size % (count := accelerator.num_processes):
        raise ValueError(f"batch_size must be a multiple of the processes, here {count}; got {recipe.batch_size}")
    about = describe(model, diffusion, recipe, (len(images), x_0, y)) if out else {}
    folder = TrainingFolder(out, accelerator, about, {"steps": steps, "minutes": minutes})
    with folder.lock:
        state = prepare(model, accelerator, recipe.muon)
        try:
            if folder.restore(state):
                yield state
            total, at, unit = (steps, state.step, "step") if steps else (60 * minutes, int(state.seconds), "s")
            quiet = not (progress and accelerator.is_main_process) or None  # None: where standard error is no terminal
            with tqdm(desc="training", total=round(total), initial=at, unit=unit, leave=False, disable=quiet) as bar:
                # the same seconds on every process, so that all of them stop
                while (done := (state.step if steps else broadcast_object_list([state.seconds])[0]) / total) < 1:
                    started = time.perf_counter()
                    state.learning_rate = learning_rate(recipe, state.step, done, steps)
                    train_step(state, diffusion, images, recipe, accelerator)
                    if validation is not None and state.step % validate_every == 0:
                        state.validation_loss = validation_loss(state.ema_model, diffusion, validation).mean().item()
                    state.seconds += time.perf_counter() - started
                    if state.step % save_every == 0:
                        folder.save(state)
                    bar.set_postfix(loss=f"{state.loss:.4f}", refresh=False)
                    bar.update((state.step if steps else int(state.seconds)) - bar.n)
                    yield state
            folder.save(state)
            folder.save_model(state, diffusion, tuple(x_0.shape[2:]))
        except (GeneratorExit, KeyboardInterrupt):  # the caller left the loop, or a step was cut off before it counts
            if state.step and state.whole:
                folder.save(state)
            raise
        finally:  # the caller has the network as it was given, without accelerate's wrappers
            accelerator.unwrap_model(state.network, keep_fp32_wrapper=False)
            accelerator.free_memory()


def train_step(state: TrainState, diffusion: GaussianDiffusion, images, recipe: Settings, accelerator: Accelerator):
    """Algorithm 1, lines 2 to 5; moves `state` on in place.

    Several processes see together the batch that one would see, part by part; only dropout's masks are their own.
    """
    device, process, step = accelerator.device, accelerator.process_index, state.step
    x_0, y = batch_at(images, step, recipe.batch_size, recipe.seed)
    t, noise, chance = draw(x_0, diffusion.num_timesteps, recipe, step, device)
    share = len(x_0) // accelerator.num_processes
    part = slice(process * share, (process + 1) * share)
    if (classes := getattr(unwrap(state.model), "num_classes", None)) is None:
        y = None
    elif y is not None:
        check_labels(y, classes)
        y = torch.where(chance < recipe.label_dropout, classes, y.to(device))[part]
    with torch.random.fork_rng([device] if device.type == "cuda" else []), accelerator.autocast():
        torch.manual_seed(stream_seed(recipe.seed, "dropout", step, process))  # the caller's random state comes back
        loss = diffusion.loss(state.network, x_0[part].to(device), t[part], noise[part], y)
    descend(state, loss, recipe, accelerator)


def descend(state: TrainState, loss: Tensor, recipe: Settings, accelerator: Accelerator) -> None:
    """A step against the gradient of `loss`, clipped, at the state's learning rate; then the EMA. Moves `state` on."""
    for group in state.optimizer.param_groups:
        group["lr"] = state.learning_rate
    state.optimizer.zero_grad()  # here, since a step that was interrupted may have left some
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(state.network.parameters(), recipe.max_gradient_norm or math.inf)
    numbers = torch.stack([accelerator.reduce(loss.detach(), "mean"), norm])
    state.loss, state.gradient_norm = numbers.tolist()  # the one wait for a GPU in a step
    check_finite("loss", state.loss, state)
    if accelerator.scaler is None:  # with fp16 the scaler skips such a step and goes on
        check_finite("gradient norm", state.gradient_norm, state)
    state.whole = False
    state.optimizer.step()
    update_ema(state.ema_model, state.model, min(recipe.ema_decay, (1 + state.step) / (10 + state.step)))
    state.step += 1
    state.whole = True


def draw(x_0: Tensor, num_timesteps: int, recipe: Settings, step: int, device) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps (B,), noise of the shape of x_0, and numbers (B,) in [0, 1) that decide whose label is hidden.

    A timestep is T u. With probability `middle` u is logit-normal about -1 (Esser et al. 2024, section 3.1), where
    images take shape; else it is uniform, so that no timestep is left out.
    """
    on = dict(generator=torch.Generator(device).manual_seed(stream_seed(recipe.seed, "step", step)), device=device)
    choice, anywhere, chance = torch.rand(3, len(x_0), **on)
    u = torch.where(choice < recipe.middle, (torch.randn(len(x_0), **on) - 1).sigmoid(), anywhere)
    t = (num_timesteps * u).long().clamp(max=num_timesteps - 1)  # u near 1 may be rounded to 1
    return t, torch.randn(x_0.shape, dtype=x_0.dtype, **on), chance


def learning_rate(recipe: Settings, step: int, done: float, steps: int | None) -> float:
    """The learning rate of the step after `step` finished ones, where a fraction `done` of the training is over."""
    warmup = min(recipe.warmup, steps // 10) if steps else recipe.warmup
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    fall = 0.5 * (1 + math.cos(math.pi * done)) if recipe.decay else 1.0
    return recipe.learning_rate * rise * fall


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * weights, in place; buffers are copied."""
    torch._foreach_lerp_(list(ema_model.parameters()), list(model.parameters()), 1 - decay)
    for kept, new in zip(ema_model.buffers(), model.buffers()):
        kept.copy_(new)


def check_finite(what: str, value: float, state: TrainState) -> None:
    if not math.isfinite(value):
        kept = "nothing had been saved" if state.saved is None else "the last good checkpoint is kept"
        advice = f"{kept}. Try a lower learning rate, or precision='no'"
        raise TrainingDiverged(f"the {what} became {value} at step {state.step}: training stopped, and {advice}")


@torch.no_grad()
def validation_loss(
    model: nn.Module, diffusion: GaussianDiffusion, images: Images, points: int = 10, count: int = 256
) -> Tensor:
    """The loss at `points` timesteps, the middles of as many parts of 0..T-1: float32 (points,) on the CPU.

    Always the first `count` images, the same noise and no dropout: two calls differ by the model only. The mean lies a
    little below that over all t, because the loss is steepest at the smallest t, within the first point.
    """
    check_numbers(points=points, count=count)
    device, was_training = next((p.device for p in model.parameters()), torch.device("cpu")), model.training
    model.eval()
    x_0, y = take(images, torch.arange(min(count, len(images))))
    y = None if y is None or getattr(model, "num_classes", None) is None else y.to(device)
    x_0, generator, losses = x_0.to(device), torch.Generator().manual_seed(0), []
    for k in range(points):
        t = torch.full((len(x_0),), int((k + 0.5) * diffusion.num_timesteps / points), device=device)
        noise = torch.randn(x_0.shape, generator=generator).to(device)
        losses.append(diffusion.loss(model, x_0, t, noise, y))
    model.train(was_training)
    return torch.stack(losses).float().cpu()


def make_accelerator(device: torch.device, precision: str | None) -> Accelerator:
    """accelerate's object for this device and precision; raises ValueError where they do not go together."""
    fit = ("no", "bf16") if device.type == "cpu" else tuple(DTYPES)
    if precision not in (None, *fit):
        raise ValueError(f"precision must be one of {str(fit)[1:-1]} on this device ({device.type}), got {precision!r}")
    # accelerate keeps both for the whole process; another training may want others. Under `accelerate launch` the
    # processes are connected already, and which device is whose was settled there.
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    AcceleratorState._reset_state(reset_partial_state=alone)
    if alone and device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    accelerator = Accelerator(mixed_precision=precision or find_precision(device), cpu=device.type == "cpu")
    if accelerator.device.type != device.type:
        raise ValueError(f"device {device.type!r} was asked for, but accelerate was set up for {accelerator.device}")
    return accelerator


def prepare(model: nn.Module, accelerator: Accelerator, muon: bool) -> TrainState:
    """The network on its device in training mode, a copy for the average, and the optimizer."""
    if short := {str(p.dtype) for p in model.parameters()} & {"torch.float16", "torch.bfloat16"}:
        advice = "train model.float(), which precision='bf16' or 'fp16' makes fast too"
        raise ValueError(f"small steps are lost in weights of {short.pop()}: {advice}")
    device = accelerator.device
    if device.type == "cuda" or (device.type == "cpu" and accelerator.mixed_precision == "no"):
        model.to(memory_format=torch.channels_last)  # measured: faster there, slower with bf16 on a CPU
    model.to(device).train()
    ema_model = copy.deepcopy(unwrap(model)).eval().requires_grad_(False)
    short = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    adam = torch.optim.Adam(model.parameters(), lr=0.0)
    optimizer = Muon(unwrap(model), lr=0.0, dtype=short) if muon else adam
    network, optimizer = accelerator.prepare(model, optimizer)
    return TrainState(model, ema_model, network, optimizer)

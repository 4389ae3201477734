"""Training (Ho et al. 2020, Algorithm 1) as a generator: the caller owns plots and logging.

    for state in train(model, diffusion, images, steps=1000):
        ...                                     # state.step, state.loss, state.ema_model

What one step does, and what is saved, stands in run.py.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from utils.device import find_device
from utils.diffusion.batches import Batches
from utils.diffusion.images import ImageSet
from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.run import Run, TrainingDiverged, TrainState, update_ema
from utils.files import load_state

__all__ = ["TrainState", "TrainingDiverged", "train", "update_ema", "validation_loss"]


def train(
    model: nn.Module,
    diffusion: GaussianDiffusion,
    images: ImageSet | Tensor | Dataset,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    labels: Tensor | None = None,
    label_dropout: float = 0.1,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    warmup: int = 100,
    decay: bool = True,
    max_gradient_norm: float | None = 1.0,
    ema_decay: float = 0.999,
    validation: ImageSet | Tensor | None = None,
    validate_every: int = 200,
    out: str | Path | None = None,
    save_every: int = 200,
    precision: str | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Iterator[TrainState]:
    """Train `model` in place and yield a TrainState after every step.

    Args:
        images: images in [-1, 1] (or uint8), as `Batches` takes them; labels come with an ImageSet or Dataset.
        steps, minutes: how long; give exactly one.
        labels: (N,) classes, used only where the model has classes; each is dropped with `label_dropout`.
        learning_rate: for Adam, reached after `warmup` steps (at most a tenth of all), then lowered along a
            cosine to 0 unless decay=False.
        max_gradient_norm: gradients are scaled down to this norm; None leaves them.
        ema_decay: of the moving average of the weights, warmed up as (1 + step) / (10 + step).
        validation: images for the validation loss, measured every `validate_every` steps.
        out: a folder; the state is saved there every `save_every` steps and when the loop is left, training
            resumes from it, and model.safetensors (EMA weights) is written at the end. The first state
            after a resume is the restored one.
        precision: "no" (fp32), "bf16" or "fp16"; what is fast on the device when not given.
    Raises:
        ValueError: bad arguments, images not in [-1, 1], or a saved state of another network.
        TrainingDiverged: the loss or the gradient became NaN or infinite.
    """
    if (steps is None) == (minutes is None):
        raise ValueError(f"give steps or minutes, one of the two; got steps={steps}, minutes={minutes}")
    if (minutes if steps is None else steps) <= 0:
        raise ValueError(f"steps and minutes must be above 0, got {steps if minutes is None else minutes}")
    device = find_device(device)
    run = Run(model, diffusion, Batches(images, labels, batch_size, seed), device, precision, seed)
    run.limits = (steps, minutes)
    run.rate = (learning_rate, min(warmup, steps // 10) if steps else warmup, decay)
    run.settings = (max_gradient_norm, ema_decay, label_dropout)
    checkpoint = Path(out) / "checkpoint.pt" if out else None
    try:
        if checkpoint and checkpoint.exists():
            run.restore(load_state(checkpoint), checkpoint)
            yield run.state
        bar = tqdm(
            total=steps or round(60 * minutes), initial=run.done(), unit="step" if steps else "s",
            desc="training", leave=False, disable=not progress or not run.accelerator.is_main_process,
        )  # fmt: skip
        while run.fraction() < 1:
            started = time.perf_counter()
            run.step()
            if validation is not None and run.state.step % validate_every == 0:
                losses = validation_loss(run.state.ema_model, diffusion, validation, device=run.device)
                run.state.validation_loss = losses.mean().item()
            run.state.seconds += time.perf_counter() - started
            if checkpoint and run.state.step % save_every == 0:
                run.save(checkpoint)
            bar.set_postfix(loss=f"{run.state.loss:.4f}", refresh=False)
            bar.update(run.done() - bar.n)
            yield run.state
        bar.close()
        if checkpoint:
            run.save(checkpoint)
            run.save_model(Path(out) / "model.safetensors")
    except GeneratorExit:
        # The caller left the loop between two steps: nothing of what was trained is lost.
        if checkpoint and run.state.step:
            run.save(checkpoint)
        raise
    finally:
        run.release()


@torch.no_grad()
def validation_loss(
    model: nn.Module,
    diffusion: GaussianDiffusion,
    images: ImageSet | Tensor,
    labels: Tensor | None = None,
    points: int = 10,
    count: int = 256,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Tensor:
    """The loss at `points` timesteps, evenly spaced over the middles of as many parts of 0..T-1.

    The same first `count` images and the same noise every time, and no dropout, so that two calls differ by
    the model only. Returns float32 (points,) on the CPU. Its mean stands for the training loss on images not
    trained on; it lies a little below, because the loss is steepest at the smallest t, within the first point.
    `device` is that of the model's weights when not given.
    """
    device = device or next((p.device for p in model.parameters()), torch.device("cpu"))
    was_training = model.training
    model.eval()
    x_0, y = Batches(images, labels, len(images), seed).at(torch.arange(min(count, len(images))))
    y = None if y is None or getattr(model, "num_classes", None) is None else y.to(device)
    x_0, generator = x_0.to(device), torch.Generator().manual_seed(seed)
    losses = []
    for k in range(points):
        t = torch.full((len(x_0),), int((k + 0.5) * diffusion.num_timesteps / points), device=device)
        noise = torch.randn(x_0.shape, generator=generator).to(device)
        losses.append(diffusion.loss(model, x_0, t, noise, y))
    model.train(was_training)
    return torch.stack(losses).float().cpu()

"""Training (Ho et al. 2020, Algorithm 1) as a generator: the caller owns plots and logging.

    for state in train(model, diffusion, images, steps=1000):
        ...                                     # state.step, state.loss, state.ema_model

One code path for CPU, GPU, mixed precision and several processes, through Hugging Face accelerate. All
randomness of a step (timesteps, noise, dropped labels) is drawn for the whole batch from one generator, and
each process takes its part: two processes see what one process would see.
"""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from utils.course.runtime import find_device, find_precision
from utils.diffusion.batches import Batches
from utils.diffusion.checkpoints import load_state, save_model, save_state
from utils.diffusion.images import ImageSet
from utils.diffusion.process import GaussianDiffusion


class TrainingDiverged(FloatingPointError):
    """The loss or the gradient is no longer a number; the last good checkpoint is kept."""


@dataclass
class TrainState:
    """Where training stands after a step.

    step counts finished steps; loss is that of the last batch; seconds are those spent training, over all
    resumed parts; validation_loss is the latest one measured, by the EMA weights. model and ema_model are
    the living networks, not copies.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    model: nn.Module
    ema_model: nn.Module
    validation_loss: float | None = None


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
    device = torch.device(device) if device else find_device()
    run = _Run(model, diffusion, Batches(images, labels, batch_size, seed), device, precision, seed)
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
                losses = validation_loss(run.state.ema_model, diffusion, validation, device=device)
                run.state.validation_loss = losses.mean().item()
            if checkpoint and run.state.step % save_every == 0:
                run.save(checkpoint)
            run.state.seconds += time.perf_counter() - started
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


class _Run:
    """One training: network, EMA, optimiser, random state, and a step that moves them on."""

    def __init__(self, model, diffusion, batches: Batches, device: torch.device, precision: str | None, seed: int):
        # accelerate keeps its settings for the whole process; another training may want another precision.
        AcceleratorState._reset_state()
        precision = precision or find_precision(device)
        self.accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
        processes = self.accelerator.num_processes
        if batches.batch_size % processes:
            raise ValueError(f"batch_size {batches.batch_size} must be a multiple of the {processes} processes")
        self.diffusion, self.batches = diffusion, batches
        self.device = self.accelerator.device
        if self.device.type == "cuda" or (self.device.type == "cpu" and precision == "no"):
            model.to(memory_format=torch.channels_last)  # measured: faster there, slower with bf16 on a CPU
        model.to(self.device).train()
        ema_model = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
        self.model, self.optimizer = self.accelerator.prepare(model, self.optimizer)
        self.rng = torch.Generator(self.device).manual_seed(seed)
        self.state = TrainState(0, math.nan, 0.0, math.nan, 0.0, model, ema_model)

    # -- how far ---------------------------------------------------------------------------------------

    def done(self) -> int:
        """Steps, or seconds, behind us."""
        return self.state.step if self.limits[0] else int(self.state.seconds)

    def fraction(self) -> float:
        """How much of the training is behind us, 0 to 1, the same on every process."""
        steps, minutes = self.limits
        if steps is not None:
            return self.state.step / steps if steps else 1.0
        seconds = torch.tensor(self.state.seconds, device=self.device)
        if self.accelerator.num_processes > 1:
            seconds = broadcast(seconds)
        return float(seconds) / (60 * minutes)

    def learning_rate(self) -> float:
        peak, warmup, decay = self.rate
        rise = min(1.0, (self.state.step + 1) / warmup) if warmup else 1.0
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, self.fraction()))) if decay else 1.0
        return peak * rise * fall

    # -- one step --------------------------------------------------------------------------------------

    def step(self) -> None:
        max_norm, ema_decay, label_dropout = self.settings
        state, accelerator = self.state, self.accelerator
        state.learning_rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = state.learning_rate
        x_0, t, noise, y = self.draw(label_dropout)
        with accelerator.autocast():
            loss = self.diffusion.loss(self.model, x_0, t, noise, y)
        state.loss = accelerator.reduce(loss.detach(), "mean").item()
        self.check_finite("loss", state.loss)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), max_norm or math.inf)
        state.gradient_norm = float(norm)
        if accelerator.scaler is None:  # with fp16 the scaler skips such a step and goes on
            self.check_finite("gradient norm", state.gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        update_ema(state.ema_model, state.model, min(ema_decay, (1 + state.step) / (10 + state.step)))
        state.step += 1

    def draw(self, label_dropout: float) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """This process's part of the step's images, timesteps, noise and labels."""
        x_0, y = self.batches(self.state.step)
        count, on = len(x_0), dict(generator=self.rng, device=self.device)
        t = torch.randint(self.diffusion.num_timesteps, (count,), **on)
        noise = torch.randn(x_0.shape, dtype=x_0.dtype, **on)
        dropped = torch.rand(count, **on) < label_dropout
        share = count // self.accelerator.num_processes
        mine = slice(self.accelerator.process_index * share, (self.accelerator.process_index + 1) * share)
        classes = getattr(self.state.model, "num_classes", None)
        if classes is None or y is None:
            labels = None
        else:
            labels = torch.where(dropped, classes, y.to(self.device))[mine]
        return x_0[mine].to(self.device), t[mine], noise[mine], labels

    def check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the {what} became {value} at step {self.state.step}: training stopped, and the last good "
                "checkpoint is kept. Try a lower learning rate, or precision='no'"
            )

    # -- saving ----------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        if not self.accelerator.is_main_process:
            return
        state, scaler = self.state, self.accelerator.scaler
        save_state(path, {
            "model": state.model.state_dict(), "ema_model": state.ema_model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "scaler": scaler.state_dict() if scaler else None,
            "step": state.step, "seconds": state.seconds, "loss": state.loss,
            "validation_loss": state.validation_loss, "rng": self.rng.get_state(),
            "torch_rng": torch.get_rng_state(), "prediction": self.diffusion.prediction,
            "config": getattr(state.model, "config", None),
        })  # fmt: skip

    def restore(self, saved: dict, path: Path) -> None:
        state = self.state
        here = (getattr(state.model, "config", None), self.diffusion.prediction)
        if (saved["config"], saved["prediction"]) != here:
            raise ValueError(
                f"{path.name} in {path.parent.name} was trained with {saved['config']}, prediction "
                f"{saved['prediction']!r}, but this training has {here[0]}, prediction {here[1]!r}; use another "
                "folder, or the same settings"
            )
        state.model.load_state_dict(saved["model"])
        state.ema_model.load_state_dict(saved["ema_model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        state.step, state.seconds, state.loss = saved["step"], saved["seconds"], saved["loss"]
        state.validation_loss = saved["validation_loss"]
        self.rng.set_state(saved["rng"])
        torch.set_rng_state(saved["torch_rng"])

    def save_model(self, path: Path) -> None:
        if self.accelerator.is_main_process:
            save_model(path, self.state.ema_model, self.diffusion, steps=self.state.step)

    def release(self) -> None:
        """Take accelerate's wrappers off the network, so that the caller has it as it was given."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.accelerator.free_memory()


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * weights, in place; buffers are copied."""
    torch._foreach_lerp_(list(ema_model.parameters()), list(model.parameters()), 1 - decay)
    for kept, new in zip(ema_model.buffers(), model.buffers()):
        kept.copy_(new)


@torch.no_grad()
def validation_loss(
    model: nn.Module,
    diffusion: GaussianDiffusion,
    images: ImageSet | Tensor,
    labels: Tensor | None = None,
    points: int = 10,
    count: int = 256,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Tensor:
    """The loss at `points` timesteps, evenly spaced over the middles of as many parts of 0..T-1.

    The same first `count` images and the same noise every time, so that two calls differ by the model only.
    Returns float32 (points,) on the CPU; its mean estimates the training loss on images not trained on.
    """
    x_0, y = Batches(images, labels, len(images), seed).at(torch.arange(min(count, len(images))))
    y = None if y is None or getattr(model, "num_classes", None) is None else y.to(device)
    x_0, generator = x_0.to(device), torch.Generator().manual_seed(seed)
    losses = []
    for k in range(points):
        t = torch.full((len(x_0),), int((k + 0.5) * diffusion.num_timesteps / points), device=device)
        noise = torch.randn(x_0.shape, generator=generator).to(device)
        losses.append(diffusion.loss(model, x_0, t, noise, y))
    return torch.stack(losses).float().cpu()

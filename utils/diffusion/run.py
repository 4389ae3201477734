"""One training: networks, optimiser and random state, the step that moves them on, and saving them.

`training.train` drives it. One code path for CPU, GPU, mixed precision and several processes, through
Hugging Face accelerate. All randomness of a step (timesteps, noise, dropped labels) is drawn for the whole
batch from one generator, and each process takes its part: two processes see what one process would see. Only
the masks of dropout, if the network has any, are each process's own.
"""

import copy
import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import Tensor, nn

from utils.device import find_precision
from utils.diffusion.batches import Batches, check_labels, stream_seed
from utils.diffusion.checkpoints import save_model
from utils.files import TrainingDiverged, save_state


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


class Run:
    """One training: network, EMA, optimiser, random state, and a step that moves them on."""

    def __init__(self, model, diffusion, batches: Batches, device: torch.device, precision: str | None, seed: int):
        precision = precision or find_precision(device)
        self.accelerator = make_accelerator(device, precision)
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
        self.seed, self.rng = seed, torch.Generator(self.device).manual_seed(stream_seed(seed, "steps"))
        self.state = TrainState(0, math.nan, 0.0, math.nan, 0.0, model, ema_model)
        self.seed_dropout()

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
            check_labels(y, classes)
            labels = torch.where(dropped, classes, y.to(self.device))[mine]
        return x_0[mine].to(self.device), t[mine], noise[mine], labels

    def check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the {what} became {value} at step {self.state.step}: training stopped, and the last good "
                "checkpoint is kept. Try a lower learning rate, or precision='no'"
            )

    def seed_dropout(self) -> None:
        """Other masks on every further process; the first goes on with the random state as it is."""
        if self.accelerator.process_index:
            torch.manual_seed(stream_seed(self.seed, "dropout", self.accelerator.process_index, self.state.step))

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
            "torch_rng": torch.get_rng_state(), "device_rng": device_rng(self.device).get_rng_state(),
            "device": self.device.type, **self.settings_saved(),
        })  # fmt: skip

    def settings_saved(self) -> dict:
        """What has to be the same when training resumes."""
        schedule, batches = self.diffusion.schedule, self.batches
        betas = hashlib.sha256(schedule.betas.numpy().tobytes()).hexdigest()[:8]
        return {
            "config": getattr(self.state.model, "config", None), "prediction": self.diffusion.prediction,
            "schedule": f"{schedule.name}, {schedule.num_timesteps} timesteps, betas {betas}",
            "seed": self.seed, "batch_size": batches.batch_size, "number of images": len(batches.images),
            "learning rate and its decay": [self.rate[0], self.rate[2]],
            "clipping, EMA decay and label dropout": list(self.settings), "random streams": 2,
        }  # fmt: skip

    def restore(self, saved: dict, path: Path) -> None:
        """Go on from a saved state. Raises ValueError where it is none, or of other settings."""
        name, state = f"{path.name} in {path.parent.name}", self.state
        missing = sorted({"model", "ema_model", "optimizer", "step", "rng", "config", "prediction"} - saved.keys())
        if missing:
            raise ValueError(f"{name} is no training state: it has no {', '.join(missing)}; use another folder")
        for key, here in self.settings_saved().items():
            if {"random streams": 1, **saved}.get(key, here) != here:  # before 2, uses of a seed shared their numbers
                raise ValueError(
                    f"{name} was trained with {key} {saved.get(key, 1)!r}, but this training has {here!r}; use another "
                    "folder, or the same settings"
                )
        try:
            state.model.load_state_dict(saved["model"])
            state.ema_model.load_state_dict(saved["ema_model"])
        except RuntimeError as error:
            first = str(error).strip().splitlines()[1].strip()
            raise ValueError(f"{name} belongs to another architecture: {first} Use another folder") from error
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        state.step, state.seconds, state.loss = saved["step"], saved["seconds"], saved["loss"]
        state.validation_loss = saved["validation_loss"]
        self.restore_random(saved)

    def restore_random(self, saved: dict) -> None:
        """On the same kind of device everything goes on as it would have; on another, from a new seed."""
        if self.device.type == saved.get("device", self.device.type):
            self.rng.set_state(saved["rng"])
            torch.set_rng_state(saved["torch_rng"])
            if "device_rng" in saved:
                device_rng(self.device).set_rng_state(saved["device_rng"])
            self.seed_dropout()
        else:
            self.rng.manual_seed(stream_seed(self.seed, "steps", saved["step"]))
            print(f"saved on {saved['device']}, resumed on {self.device.type}: the noise from here on is other noise")

    def save_model(self, path: Path) -> None:
        if self.accelerator.is_main_process:
            size = self.batches.at(torch.tensor([0]))[0].shape[-1]
            save_model(path, self.state.ema_model, self.diffusion, steps=self.state.step, size=size)

    def release(self) -> None:
        """Take accelerate's wrappers off the network, so that the caller has it as it was given."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.accelerator.free_memory()


def make_accelerator(device: torch.device, precision: str) -> Accelerator:
    """accelerate's object for this device and precision; raises ValueError where accelerate has another device."""
    # accelerate keeps both for the whole process; another training may want others. Under `accelerate launch`
    # the processes are connected already, and which device is whose was settled there.
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    AcceleratorState._reset_state(reset_partial_state=alone)
    if alone and device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
    if accelerator.device.type != device.type:
        raise ValueError(f"device {device.type!r} was asked for, but accelerate was set up for {accelerator.device}")
    return accelerator


def device_rng(device: torch.device):
    """The module whose random state dropout uses on that device."""
    return {"cuda": torch.cuda, "mps": torch.mps}.get(device.type, torch)


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * weights, in place; buffers are copied."""
    torch._foreach_lerp_(list(ema_model.parameters()), list(model.parameters()), 1 - decay)
    for kept, new in zip(ema_model.buffers(), model.buffers()):
        kept.copy_(new)

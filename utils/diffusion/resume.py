"""A training's folder: the saved state, what has to be the same when a training goes on from it, what may differ."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from utils.diffusion.checkpoints import config_of, pack_model
from utils.diffusion.process import GaussianDiffusion
from utils.files import check_writable, load_state, lock_folder, save_state

NUMBERS = ("step", "seconds", "loss", "validation_loss")  # of a TrainState that are saved


@contextlib.contextmanager
def held(folder: Path | None, state: Any, diffusion: GaussianDiffusion, keep: Callable[[], None]) -> Iterator[None]:
    """The folder is this training's for a while. What could not be written at its end is found out at its begin."""
    if folder is None:
        yield
        return
    for name in ("checkpoint.pt", "model.safetensors"):
        check_writable(folder / name)
    pack_model(state.ema_model, diffusion)
    with lock_folder(folder):
        try:
            yield
        except GeneratorExit:  # the caller left the loop between two steps: nothing of what was trained is lost
            if state.step:
                keep()
            raise


def describe(model: nn.Module, diffusion: GaussianDiffusion, recipe: Any) -> dict[str, Any]:
    """Settings, network and process, to be compared when a training resumes."""
    schedule = diffusion.schedule
    betas = hashlib.sha256(schedule.betas.numpy().tobytes()).hexdigest()[:8]
    return {
        **asdict(recipe),
        "config": config_of(model),
        "prediction": diffusion.prediction,
        "schedule": f"{schedule.name}, {schedule.num_timesteps} timesteps, betas {betas}",
    }


def save(state: Any, accelerator: Accelerator, about: dict[str, Any], path: Path | None) -> None:
    """Write a TrainState, with what it is `about`, on the first process; nowhere without a path."""
    if path is None:
        return
    if accelerator.is_main_process:
        parts = {name: getattr(state, name).state_dict() for name in ("model", "ema_model", "optimizer")}
        numbers = {name: getattr(state, name) for name in NUMBERS}
        scaler = accelerator.scaler.state_dict() if accelerator.scaler else None
        save_state(path, {**parts, **numbers, "scaler": scaler, **about})
    state.saved = state.step


def restore(state: Any, accelerator: Accelerator, about: dict[str, Any], path: Path) -> str:
    """Put a saved state back in place; says in words what is other than it was and may be.

    Raises ValueError where it is one of other settings, images or another network.
    """
    saved = load_state(path, about["settings"])
    try:
        state.model.load_state_dict(saved["model"])
        state.ema_model.load_state_dict(saved["ema_model"])
    except RuntimeError as error:
        words = " ".join(str(error).split())
        raise ValueError(f"{path.name} in {path.parent.name} is of another network: {words}") from error
    state.optimizer.load_state_dict(saved["optimizer"])
    if saved["scaler"] and accelerator.scaler:
        accelerator.scaler.load_state_dict(saved["scaler"])
    for name in NUMBERS:
        setattr(state, name, saved[name])
    state.saved = state.step
    before, now = saved["free"], about["free"]
    return ", ".join(f"{name} {now[name]!r}, before {before[name]!r}" for name in now if now[name] != before[name])

"""Models, each one safetensors file, and the folder of a training: written whole or not at all, unable to run code."""

import contextlib
import functools
import inspect
import json
import os
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from utils.diffusion.autoencoder import Autoencoder
from utils.diffusion.batches import fingerprint
from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.schedules import NoiseSchedule
from utils.diffusion.transformer import DiT
from utils.diffusion.unet import UNet
from utils.files import check_writable, load_state, lock_folder, save_state, write_atomically

FORMAT = "diffusion-course-1"
NETWORKS = {"UNet": UNet, "DiT": DiT, "Autoencoder": Autoencoder}
BETAS = "schedule.betas"
NUMBERS = ("step", "seconds", "loss", "validation_loss")  # of a TrainState that are saved
STATE, MODEL = "checkpoint.pt", "model.safetensors"  # the files of a training's folder


def save_model(
    path: str | Path, model: nn.Module, diffusion: GaussianDiffusion, dtype: torch.dtype = torch.float32, **notes: Any
) -> None:
    """Write weights (as `dtype`), schedule, the network's settings, and `notes` (JSON values) to one safetensors file.

    The note `distilled` is for such networks, {"sampler": ..., "evaluations": [...]}: `sample` takes no others.
    """
    tensors = {BETAS: diffusion.schedule.betas}
    for name, value in unwrap(model).state_dict().items():
        value = value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype, copy=True)
        tensors[name.replace("_orig_mod.", "")] = value.contiguous()  # without what torch.compile puts in
    process = {"schedule": diffusion.schedule.name, "prediction": diffusion.prediction, "variance": diffusion.variance}
    header = {"format": FORMAT, "unet": json.dumps(config_of(model)), **process, "notes": json.dumps(notes)}
    if (kind := type(unwrap(model)).__name__) != "UNet":
        header["network"] = kind
    write_atomically(path, _in_fixed_order(save(tensors, metadata=header)))


def unwrap(model: nn.Module) -> nn.Module:
    """The network itself, inside what torch.compile and several GPUs put around it."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrap(model.module)
    return unwrap(model._orig_mod) if hasattr(model, "_orig_mod") else model


def config_of(model: nn.Module) -> dict[str, Any] | None:
    """What rebuilds one of NETWORKS; None, with a warning, for any other."""
    if type(model := unwrap(model)) in NETWORKS.values():
        return model.config
    saved = f"of a {type(model).__name__} the weights are saved, but load_model builds {', '.join(NETWORKS)} only"
    warnings.warn(f"{saved}; build it, and give it what safetensors.torch.load_file reads", stacklevel=1)  # shown once
    return None


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[nn.Module, GaussianDiffusion]:
    """The network in evaluation mode (float32 on `device`) and its diffusion process, as `save_model` wrote them.

    With an Autoencoder comes a process that says nothing: train and validate it by a Reconstruction of its own.
    Raises FileNotFoundError, or ValueError: no such file, a damaged one, or weights of none of NETWORKS.
    """
    header, tensors = _read(Path(path))
    try:
        schedule = NoiseSchedule(tensors.pop(BETAS), header["schedule"])
        diffusion = GaussianDiffusion(schedule, header["prediction"], header.get("variance", "fixed"))
        if (config := json.loads(header["unet"])) is None:
            raise ValueError("they are of no network of the course: build it, and give it what load_file reads")
        model = NETWORKS[header.get("network", "UNet")](**config)
        model.load_state_dict(tensors)
        model.distilled = json.loads(header.get("notes", "{}")).get("distilled")
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:500]
        raise ValueError(f"no network can be built from the weights in {Path(path).name}: {reason}") from error
    return model.to(device).eval(), diffusion


def read_notes(path: str | Path) -> dict[str, Any]:
    """The notes that were saved with the model."""
    return json.loads(_read(Path(path))[0]["notes"])


def _in_fixed_order(content: bytes) -> bytes:
    """safetensors orders its notes anew in each call, but equal models have to be equal files: sort them."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path.name} in {path.parent}; train one, or check the path")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        if path.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
            refused = "is a pickle, not safetensors, and was refused: loading it could run code"
            raise ValueError(f"{path.name} {refused}; use a file that save_model wrote") from error
        raise ValueError(f"{path.name} is cut short or no safetensors file: {error}; get a whole copy") from error
    if (form := header.get("format")) != FORMAT or BETAS not in tensors:
        raise ValueError(f"{path.name} is no model of this course: its format is {form!r}, expected {FORMAT!r}")
    return header, tensors


def one_in_a_folder(train: Callable[..., Iterator]) -> Callable[..., Iterator]:
    """A training left open in this process, by a cell say, is saved and closed when another begins in its folder."""
    opened: weakref.WeakValueDictionary[str, Iterator] = weakref.WeakValueDictionary()

    @functools.wraps(train)
    def begin(*args, out: str | Path | None = None, **options) -> Iterator:
        states, folder = train(*args, out=out, **options), os.path.realpath(out or os.devnull)
        before, opened[folder] = opened.get(folder), states
        if out and before is not None and inspect.getgeneratorstate(before) == inspect.GEN_SUSPENDED:
            warnings.warn(f"the training that was open in {out} is saved and closed; this one goes on", stacklevel=2)
            before.close()
        return states

    return begin


def describe(model: nn.Module, diffusion: GaussianDiffusion, recipe: Any, data: tuple) -> dict[str, Any]:
    """What has to be the same when a training resumes: recipe, network, process, and images (number, x_0, labels)."""
    schedule = diffusion.schedule
    process = f"{schedule.name}, {schedule.num_timesteps} timesteps, betas {fingerprint(schedule.betas)[:8]}"
    network = {"config": config_of(model), "prediction": diffusion.prediction, "schedule": process}
    return {**asdict(recipe), **network, "number of images": data[0], "images": fingerprint(*data[1:])}


class TrainingFolder:
    """Where the first process keeps a training's states and, at the end, its model; nowhere where `out` is None.

    settings: what has to be the same when it resumes. length: its steps and minutes; they and the device may differ.
    """

    def __init__(self, out: str | Path | None, accelerator: Accelerator, settings: dict, length: dict) -> None:
        self.path, self.accelerator, self.settings = Path(out) if out else None, accelerator, settings
        self.free = {"precision": accelerator.mixed_precision, "device": accelerator.device.type}
        self.free |= {"processes": accelerator.num_processes, **length}
        self.writes = self.path is not None and accelerator.is_main_process
        for name in (STATE, MODEL) if self.writes else ():
            check_writable(self.path / name)
        self.lock = lock_folder(self.path) if self.writes else contextlib.nullcontext()

    def save(self, state: Any) -> None:
        if self.writes:
            parts = {"model": unwrap(state.model), "ema_model": state.ema_model, "optimizer": state.optimizer}
            saved = {name: part.state_dict() for name, part in parts.items()}
            saved |= {name: getattr(state, name) for name in NUMBERS}
            scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
            save_state(self.path / STATE, {**saved, "scaler": scaler, "settings": self.settings, "free": self.free})
        state.saved = state.step if self.path else None

    def save_model(self, state: Any, diffusion: GaussianDiffusion, size: tuple[int, int]) -> None:
        """Write the average of the weights, as a model for images of this height and width."""
        if self.writes:
            size = size[0] if size[0] == size[1] else size
            save_model(self.path / MODEL, state.ema_model, diffusion, steps=state.step, size=size)

    def restore(self, state: Any) -> bool:
        """Put a saved state back in place, if there is one; ValueError where it is of another network or settings."""
        if self.path is None or not (path := self.path / STATE).exists():
            return False
        saved = load_state(path, self.settings)
        try:
            unwrap(state.model).load_state_dict(saved["model"])
            state.ema_model.load_state_dict(saved["ema_model"])
        except RuntimeError as error:
            words = " ".join(str(error).split())
            raise ValueError(f"{path.name} in {path.parent.name} is of another network: {words}") from error
        state.optimizer.load_state_dict(saved["optimizer"])
        if saved["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        for name in NUMBERS:
            setattr(state, name, saved[name])
        state.saved = state.step
        before, now = saved["free"], self.free
        changed = [f"{name} {now[name]!r}, before {before[name]!r}" for name in now if now[name] != before[name]]
        if self.settings["decay"] and any((now[name] or 0) > (before[name] or 0) for name in ("steps", "minutes")):
            changed.append("so that the learning rate, which falls over the whole length, goes up again")
        if changed:
            warnings.warn(f"training goes on after step {state.step} with {', '.join(changed)}", stacklevel=3)
        return True

"""Weights and training states on disk: whole or not at all, and never able to run code."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn


def save_weights(path: Path, network: nn.Module) -> None:
    """Write a network's weights and buffers as safetensors."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    _write(path, lambda part: save_file(tensors, part, metadata={"format": "pt"}))


def load_weights(path: Path, network: nn.Module) -> None:
    """Put the weights that `save_weights` wrote into a network of the same shape.

    Raises:
        ValueError: no such file, a damaged one, or one of another network.
    """
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); get a whole copy, or train again") from error
    except RuntimeError as error:
        raise ValueError(f"{path} belongs to another network: {error}") from error


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state: tensors, numbers, strings, and lists and dictionaries of them."""
    _write(path, lambda part: torch.save(state, part))


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote, tensors on the CPU.

    Raises:
        ValueError: a damaged file, or a pickle that wants to run code; none of it is run.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} is damaged or no training state of this course ({reason}); delete it to start anew"
        ) from error


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Through a temporary file, so that an interrupt or a full disk leaves the old file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        write(part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)

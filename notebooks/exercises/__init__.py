"""What the checks of several notebooks ask of an answer before they look at its values."""

import math
from typing import Any

import torch
from torch import Tensor

from utils.course.exercises import Wrong


def as_float64(value: Any, shape: tuple[int, ...], what: str = "the result", finite: bool = True) -> Tensor:
    """The answer as a float64 tensor without a gradient. Raises `Wrong` if it has another shape or is not finite."""
    try:
        value = torch.as_tensor(value, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(f"{what} should be a tensor of numbers, got {type(value).__name__}") from error
    if tuple(value.shape) != shape:
        raise Wrong(f"{what} should have shape {shape}, got {tuple(value.shape)}")
    if finite and not bool(value.isfinite().all()):
        raise Wrong(f"{what} holds a value that is not a finite number")
    return value


def as_number(value: Any, what: str = "the result") -> float:
    """The answer as a finite number. Raises `Wrong` if it is none."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise Wrong(f"{what} should be a number, got {value!r}")
    try:
        number = float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:  # an array of several numbers, for one
        raise Wrong(f"{what} should be a number, got {value!r}") from error
    if not math.isfinite(number):
        raise Wrong(f"{what} should be a finite number, got {number}")
    return number


def close(seen: Tensor, right: Tensor, rtol: float = 1e-5, atol: float = 1e-12) -> bool:
    """Whether every value differs from the right one by `atol` + `rtol` * |right| at most; false for NaN."""
    return torch.allclose(seen.double(), right.double(), rtol=rtol, atol=atol)

"""What the checks of several notebooks ask of an answer before they look at its values."""

import math
from collections.abc import Callable
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
        raise Wrong(f"a value in {what} is not a finite number")
    return value


def called(answer: Callable, *args: Any, faults: dict[str, str]) -> Any:
    """What the answer returns. `faults`: what is wrong, in plain words, by a piece of PyTorch's or Python's message."""
    try:
        return answer(*args)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        for text, fault in faults.items():
            if text in str(error):
                raise Wrong(f"{fault} ({error})") from error
        raise


ONE_NUMBER = {"converted to": "the functions of math take one number; a tensor has .sin(), .cos(), .tanh(), ..."}
PLAIN_NUMBERS = {
    "has no attribute 'sqrt'": "alpha-bar is a plain number here: math.sqrt takes its root",
    "must be Tensor, not float": "the numbers given are plain ones: use math.sqrt and math.exp",
}


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


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, float64, the same ones at every call; torch's own stream stays as it is."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHAPES = "alphas_cumprod[t] has shape (B,); .view(-1, *[1] * (x_0.ndim - 1)) makes it (B, 1, ...)"


def shaped(values: Tensor, like: Tensor) -> Tensor:
    """One value for each item of the batch `like`, as (B, 1, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def refuse_changes(given: list[Tensor], before: list[Tensor], names: str) -> None:
    """Raises `Wrong` if the answer has written into what it was given."""
    if not all(map(torch.equal, given, before)):
        raise Wrong(
            f"your function changes what it is given, in place; make a new tensor and leave {names} as they are"
        )


def refuse_dtype(value: Any, dtype: torch.dtype, what: str, why: str) -> None:
    """Raises `Wrong` unless the answer is a tensor of that dtype."""
    if not isinstance(value, Tensor):
        raise Wrong(f"{what} should be a tensor, got {type(value).__name__}")
    if value.dtype != dtype:
        raise Wrong(f"{what} should be {dtype}, got {value.dtype}; {why}")


def wrong_mixtures(x_0: Tensor, noise: Tensor, t: Tensor, curve: Tensor) -> dict[str, Tensor]:
    """x_t by the most natural mistakes, by what is wrong with them. curve: alpha-bar at every step, (T,)."""
    a_bar = shaped(curve[t], x_0)
    signal, sigma = a_bar.sqrt(), (1 - a_bar).sqrt()
    first, before = shaped(curve[t[:1]], x_0), shaped(curve[t - 1], x_0)
    found = {
        "the weights of image and noise are exchanged": sigma * x_0 + signal * noise,
        "alpha-bar is the square of the weight: take its root, for the image and for the noise": a_bar * x_0
        + (1 - a_bar) * noise,
        "the noise has weight 1 - alpha-bar, a variance; take its root": signal * x_0 + (1 - a_bar) * noise,
        "the image has weight alpha-bar; take its root": a_bar * x_0 + sigma * noise,
        "the weights add up to 1; their squares should, so that the variance does not sink half-way": signal * x_0
        + (1 - signal) * noise,
        "a**1/2 is (a**1)/2; the root is a**0.5": a_bar / 2 * x_0 + (1 - a_bar) / 2 * noise,
        "the image is not shrunk": x_0 + sigma * noise,
        "every item is mixed as much as the first; each has a t of its own": first.sqrt() * x_0
        + (1 - first).sqrt() * noise,
        "this is the mixture of step t - 1; the least noisy step is t = 0": before.sqrt() * x_0
        + (1 - before).sqrt() * noise,
    }
    if len(x_0) == x_0.shape[-1]:
        across = curve[t].sqrt() * x_0 + (1 - curve[t]).sqrt() * noise
        found[f"the weights run along the last axis instead of one for each item: {SHAPES}"] = across
    return found


def check_update(change: float, gradient: float, rate: float, again: bool) -> None:
    """Raises `Wrong` unless plain gradient descent has moved a weight by -rate * gradient; again: in a second step."""
    if change == 0:
        raise Wrong("the weights have not changed: zero_grad first, then loss.backward(), then optimizer.step()")
    if abs(change + rate * gradient) > 1e-3 * abs(rate * gradient):
        if again:
            raise Wrong("the second step still has the first one's gradient in it; call optimizer.zero_grad()")
        raise Wrong(
            f"with a gradient of {gradient:.3f} and plain gradient descent at {rate} the weight should change by "
            f"{-rate * gradient:.4f}, it changed by {change:.4f}; one loss.backward() and one optimizer.step()"
        )

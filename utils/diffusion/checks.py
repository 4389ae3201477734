"""What is looked at once, before the work begins: numbers, images and labels. Each error is a ValueError."""

import math
import operator
import sys
from typing import Any

import torch
from torch import Tensor

from utils.diffusion.images import to_float

LARGEST, SMALLEST = sys.float_info.max, math.ulp(0.0)
COUNTS = "num_timesteps in_channels channels blocks num_classes steps batch_size save_every validate_every count points"
RULES = [  # in words, of which kind, lowest, highest, names
    ("a whole number of at least 1", operator.index, 1, math.inf, COUNTS),
    ("a whole number of at least 0", operator.index, 0, math.inf, "warmup"),
    ("a whole number", operator.index, -math.inf, math.inf, "seed"),
    ("a number above 0", float, SMALLEST, LARGEST, "minutes max_gradient_norm"),
    ("a number of at least 0", float, 0, LARGEST, "learning_rate"),
    ("a number from 0 to 1", float, 0, 1, "ema_decay label_dropout dropout"),
]
LIMITS = {name: rule for *rule, names in RULES for name in names.split()}
OPTIONAL = {"steps", "minutes", "max_gradient_norm", "num_classes"}  # None leaves these out


def check_numbers(**values: Any) -> dict[str, Any]:
    """The values as Python's own numbers, whatever NumPy or torch called them; other names come back as they are."""
    for name, value in values.items():
        if name not in LIMITS or (value is None and name in OPTIONAL):
            continue
        words, kind, lowest, highest = LIMITS[name]
        try:
            values[name] = kind(value)
            inside = lowest <= values[name] <= highest
        except (TypeError, ValueError, OverflowError):
            inside = False
        if not inside:
            raise ValueError(f"{name} must be {words}, got {value!r}")
    return values


def as_images(images: Tensor) -> Tensor:
    """Images as floats: uint8 0..255 becomes -1 to 1, a shorter format float32; float32 and float64 stay."""
    if images.dtype == torch.uint8:
        return to_float(images)
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8 0..255 or floats in [-1, 1], got {images.dtype}; convert them")
    return images if images.dtype == torch.float64 else images.float()


def check_images(images: Tensor) -> None:
    """Images are (N, C, H, W), and uint8 or float in [-1, 1]."""
    if images.ndim != 4:
        raise ValueError(f"images must have shape (N, C, H, W), got (N, {', '.join(map(str, images.shape[1:]))})")
    if not images.is_floating_point() or images.device.type != "cpu":
        return  # looking at values makes a GPU wait
    low, high = images.min().item(), images.max().item()
    if not (low >= -1.001 and high <= 1.001):
        advice = "scale pixels of 0..255 by x / 127.5 - 1 and pixels of 0..1 by 2 * x - 1"
        raise ValueError(f"images must lie in [-1, 1], got values from {low:.4g} to {high:.4g}; {advice}")


def as_labels(y: Any, count: int) -> Tensor:
    """Labels of `count` images, a tensor or a list, as int64 (count,)."""
    try:
        labels = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"labels must be whole numbers, one per image, got {type(y).__name__}; number them") from None
    if labels.numel() != count:
        raise ValueError(f"{len(labels) if labels.ndim else 1} labels for {count} images; give one label per image")
    if labels.is_floating_point() and labels.device.type == "cpu" and (labels != labels.round()).any():
        raise ValueError("labels must be whole numbers, got fractions")
    return labels.flatten().long()


def check_labels(y: Tensor, num_classes: int, hidden: bool = False) -> None:
    """All labels are 0..num_classes-1; with `hidden`, num_classes (no label) is one too."""
    outside = y[(y < 0) | (y >= num_classes + hidden)]
    if len(outside):
        advice = "; number the classes from 0, or build the network with more"
        advice = f" ({num_classes} stands for no label)" if hidden else advice
        raise ValueError(f"label {int(outside[0])} is outside the classes 0..{num_classes - 1}{advice}")

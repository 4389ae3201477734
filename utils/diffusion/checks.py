"""What is looked at once, before the work begins: numbers, images and labels. Each error is a ValueError."""

import math
import operator
from typing import Any

import torch
from torch import Tensor

from utils.diffusion.conditioning import text_encoder

COUNTS = "num_timesteps in_channels channels blocks num_classes steps batch_size save_every validate_every count"
PARTS = "depth heads patch latent_channels"
RULES = [  # in words, of which kind, which ones, names
    ("a whole number of at least 1", operator.index, lambda x: x >= 1, f"{COUNTS} points size out_channels {PARTS}"),
    ("a whole number of at least 0", operator.index, lambda x: x >= 0, "warmup"),
    ("a whole number", operator.index, lambda x: True, "seed negative"),
    ("a number above 0", float, lambda x: 0 < x < math.inf, "minutes max_gradient_norm"),
    ("a finite number", float, math.isfinite, "weight scale"),
    ("a number of at least 0", float, lambda x: 0 <= x < math.inf, "learning_rate kl_weight"),
    ("a number from 0 to 1", float, lambda x: 0 <= x <= 1, "ema_decay label_dropout dropout middle rescale quantile"),
]
LIMITS = {name: rule for *rule, names in RULES for name in names.split()}
OPTIONAL = {"steps", "minutes", "max_gradient_norm", "num_classes", "size", "negative"}  # None leaves these out


def check_numbers(**values: Any) -> dict[str, Any]:
    """The values as Python's own numbers, whatever NumPy or torch called them; other names come back as they are."""
    for name, value in values.items():
        if name not in LIMITS or (value is None and name in OPTIONAL):
            continue
        words, kind, is_one = LIMITS[name]
        try:
            values[name] = kind(value)
            fits = is_one(values[name])
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            raise ValueError(f"{name} must be {words}, got {value!r}")
    return values


def check_images(images: Tensor, bounded: bool = True) -> None:
    """Images are (N, C, H, W), and uint8 or float, in [-1, 1] where they are bounded."""
    if images.ndim != 4:
        raise ValueError(f"images must have shape (N, C, H, W), got (N, {', '.join(map(str, images.shape[1:]))})")
    if bounded and images.is_floating_point() and images.device.type == "cpu":  # looking at values makes a GPU wait
        low, high = images.min().item(), images.max().item()
        if not (low >= -1.001 and high <= 1.001):
            advice = "scale pixels of 0..255 by x / 127.5 - 1 and pixels of 0..1 by 2 * x - 1"
            raise ValueError(f"images must lie in [-1, 1], got values from {low:.4g} to {high:.4g}; {advice}")


def as_labels(y: Any, count: int) -> Tensor:
    """Labels of `count` images, a tensor or a list of whole numbers, as int64 (count,)."""
    try:
        labels = torch.as_tensor(y).flatten()
    except (TypeError, ValueError, RuntimeError):
        labels = torch.tensor([math.nan])  # words, for example
    if len(labels) != count or (labels.is_floating_point() and (labels != labels.round()).any()):
        seen = f"{tuple(y.shape)} {y.dtype}" if isinstance(y, Tensor) else f"a {type(y).__name__}, {y!r:.60}"
        raise ValueError(f"labels must be whole numbers, one for each of {count} images; got {seen}")
    return labels.long()


def check_labels(y: Tensor, num_classes: int, hidden: bool = False, encoder: str | None = None) -> None:
    """All labels are 0..num_classes-1; with `hidden`, num_classes (no label) is one too; `encoder` has read them."""
    outside = y[(y < 0) | (y >= num_classes + hidden)]
    if len(outside):
        hint = f" ({num_classes} stands for no label)" if hidden else "; number them from 0, or build it with more"
        raise ValueError(f"label {int(outside[0])} is outside the classes 0..{num_classes - 1}{hint}")
    for some in y.unique().cpu().split(1000) if encoder else ():  # the words of all might not fit into memory
        text_encoder(encoder).look_up(some)

"""Batches for training: any image tensor or data set, in an order that depends on nothing but the seed."""

import hashlib

import torch
from torch import Tensor
from torch.utils.data import Dataset

from utils.diffusion.images import ImageSet, to_float


class Batches:
    """Picks batches of images in [-1, 1] and their labels by step number.

    Every epoch is a new permutation drawn from (seed, epoch) alone, so that a resumed training sees the
    same batches as one that was never stopped. What does not fill a batch at an epoch's end is left out.

    Args:
        images: an ImageSet, a tensor (N, C, H, W) (float in [-1, 1], or uint8 0..255), or a map-style
            Dataset of images or (image, label) pairs.
        labels: (N,) integers for a tensor of images; overrides those of an ImageSet.
    Raises ValueError where there are no images, images are not in [-1, 1], or labels do not fit.
    """

    def __init__(self, images: ImageSet | Tensor | Dataset, labels: Tensor | None, batch_size: int, seed: int):
        if len(images) == 0:
            raise ValueError("there are no images to train on")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.images, self.seed = images, seed
        self.labels = labels
        if labels is None and isinstance(images, ImageSet) and images.classes:
            self.labels = images.labels
        if self.labels is not None and len(self.labels) != len(images):
            raise ValueError(f"{len(self.labels)} labels for {len(images)} images; give one label per image")
        if isinstance(images, Tensor):
            check_range(images)
        self.batch_size = min(batch_size, len(images))
        self.steps_per_epoch = len(images) // self.batch_size
        self._epoch, self._order = -1, None

    def __call__(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H, W) in [-1, 1] and labels (B,) or None of that step, on the CPU."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", epoch))
            self._epoch, self._order = epoch, torch.randperm(len(self.images), generator=generator)
        return self.at(self._order[position * self.batch_size : (position + 1) * self.batch_size])

    def at(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images and labels at these indices."""
        if isinstance(self.images, Dataset):
            return self._from_dataset(index)
        pixels = (self.images.pixels if isinstance(self.images, ImageSet) else self.images)[index]
        x_0 = to_float(pixels) if pixels.dtype == torch.uint8 else pixels
        return x_0, None if self.labels is None else self.labels[index]

    def _from_dataset(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        items = [self.images[int(i)] for i in index]
        pairs = isinstance(items[0], (tuple, list))
        x_0 = torch.stack([torch.as_tensor(item[0] if pairs else item) for item in items])
        check_range(x_0)
        labels = torch.tensor([int(item[1]) for item in items]) if pairs else None
        labels = labels if self.labels is None else self.labels[index]
        return (to_float(x_0) if x_0.dtype == torch.uint8 else x_0), labels


def stream_seed(seed: int, *use: str | int) -> int:
    """A seed for one use of randomness, 32 bits (as many as torch's CPU generator keeps).

    Were the order of the images and the timesteps drawn from equal seeds, they would be the same random numbers: the
    first image's index modulo T would be its timestep.
    """
    digest = hashlib.sha256(repr((seed, *use)).encode()).digest()
    return int.from_bytes(digest[:4], "little")


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless all labels are 0..num_classes-1."""
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise ValueError(
            f"label {int(outside[0])} is outside the classes 0..{num_classes - 1}; number the classes from 0, or "
            "build the network with a larger num_classes"
        )


def check_range(images: Tensor) -> None:
    """Raise ValueError unless images are (N, C, H, W), and float in [-1, 1] or uint8."""
    if images.ndim != 4:
        raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return
    low, high = images.min().item(), images.max().item()
    if not (low >= -1.001 and high <= 1.001):
        raise ValueError(
            f"images must lie in [-1, 1], got values from {low:.4g} to {high:.4g}; scale pixels of 0..255 by "
            "x / 127.5 - 1 and pixels of 0..1 by 2 * x - 1"
        )

"""Batches: every image once an epoch, in an order that depends on seed and step alone."""

import hashlib

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from utils.diffusion.checks import as_labels, check_images, check_labels
from utils.diffusion.images import ImageSet, to_float
from utils.files import stream_seed

Images = ImageSet | Tensor | Dataset
LOOKED_AT = 64  # of the items of a Dataset, spread over it; images in memory are looked at one and all


def batch_at(images: Images, step: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Images and labels of one step; each epoch is a permutation of its own, less what does not fill a batch."""
    epoch, position = divmod(step, len(images) // batch_size)
    rng = torch.Generator().manual_seed(stream_seed(seed, "order", epoch))
    return take(images, torch.randperm(len(images), generator=rng).split(batch_size)[position])


def take(images: Images, index: Tensor) -> tuple[Tensor, Tensor | None]:
    """Images (B, C, H, W), float32 in [-1, 1], at these indices, and their labels (B,), None where there are none."""
    x_0, labels = _pick(images, index)
    check_images(x_0, getattr(images, "bounded", True))
    return to_float(x_0).float(), None if labels is None else as_labels(labels, len(x_0))


def _pick(images: Images, index: Tensor | slice) -> tuple[Tensor, Tensor | None]:
    """Images and labels as they are kept; a slice is for what is in memory."""
    if isinstance(images, ImageSet):
        return images.pixels[index], torch.as_tensor(images.labels)[index] if images.classes else None
    if isinstance(images, Tensor):
        return images[index], None
    items = default_collate([images[int(i)] for i in index])
    x_0, *labels = items if isinstance(items, (tuple, list)) else [items]
    return x_0, labels[0] if labels else None


def look_through(images: Images, model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Images and labels as they are kept, all that are in memory, else ValueError: none, or bad shape, type or values.

    Without classes labels are left out. Of a Dataset that changes its images from call to call (flips, crops) none are
    given, (0, C, H, W): what is seen once tells nothing.
    """
    if not hasattr(images, "__len__") or len(images) == 0:
        raise ValueError(f"there are no images to train on: a {type(images).__name__} without length, or of length 0")
    classes = getattr(model, "num_classes", None)
    some = torch.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).long()
    index = slice(None) if isinstance(images, (ImageSet, Tensor)) else some
    with torch.random.fork_rng([]):  # the caller's random state comes back
        (x_0, labels), (again, _) = _pick(images, index), _pick(images, index)
    check_images(x_0.cpu(), getattr(images, "bounded", True))
    to_float(x_0[:1])
    if labels is not None and classes is not None:
        check_labels(labels := as_labels(labels, len(x_0)), classes, encoder=getattr(model, "encoder_name", None))
    changing = index is some and not torch.equal(x_0, again)
    return x_0[:0] if changing else x_0, None if classes is None else labels


def fingerprint(*tensors: Tensor | None) -> str:
    """A few letters that tell these values from others."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(b"none" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(b"" if tensor is None else tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]

"""Batches: every image once an epoch, in an order that depends on seed and step alone."""

import itertools

import pytest
import torch
from torch.utils.data import TensorDataset

from utils.diffusion.batches import Batches
from utils.diffusion.images import ImageSet


def test_every_image_is_seen_once_an_epoch_in_a_new_order():
    images = torch.linspace(-1, 1, 12).view(12, 1, 1, 1)
    batches = Batches(images, torch.arange(12), batch_size=4, seed=0)
    epochs = [torch.cat([batches(3 * e + k)[1] for k in range(3)]) for e in range(3)]
    assert all(sorted(order.tolist()) == list(range(12)) for order in epochs)
    assert len({tuple(order.tolist()) for order in epochs}) == 3
    x_0, y = batches(7)
    torch.testing.assert_close(x_0, images[y])


def test_a_batch_depends_on_seed_and_step_alone():
    images = torch.rand(50, 1, 2, 2)
    straight = Batches(images, None, 8, seed=3)
    expected = [straight(step)[0] for step in range(20)]
    for step in reversed(range(20)):
        torch.testing.assert_close(Batches(images, None, 8, seed=3)(step)[0], expected[step])
    assert not torch.equal(Batches(images, None, 8, seed=4)(0)[0], expected[0])


def test_kinds_of_images():
    pixels = torch.randint(256, (10, 1, 4, 4), dtype=torch.uint8)
    labels = torch.arange(10)
    expected = pixels.float() / 127.5 - 1
    sources = {
        "uint8": (pixels, None), "float": (expected, None),
        "set": (ImageSet(pixels, labels, tuple("abcdefghij")), None),
        "set without classes": (ImageSet(pixels, labels), None), "with labels": (pixels, labels),
        "pairs": (TensorDataset(expected, labels), None), "uint8 pairs": (TensorDataset(pixels, labels), None),
    }  # fmt: skip
    index = torch.tensor([3, 7])
    for name, (images, given) in sources.items():
        x_0, y = Batches(images, given, 2, seed=0).at(index)
        torch.testing.assert_close(x_0, expected[index], msg=name)
        wanted = None if name in ("uint8", "float", "set without classes") else [3, 7]
        assert (None if y is None else y.tolist()) == wanted, name


def test_fewer_images_than_a_batch():
    batches = Batches(torch.zeros(3, 1, 2, 2), None, 128, seed=0)
    assert batches.batch_size == 3 and len(batches(5)[0]) == 3


@pytest.mark.parametrize("low, high", [(0.0, 255.0), (-1.0, 1.5), (-2.0, 0.0), (float("nan"), 1.0)])
@pytest.mark.parametrize("as_dataset", [False, True])
def test_images_outside_the_range(low, high, as_dataset):
    images = torch.zeros(4, 1, 2, 2)
    images[0, 0, 0, 0], images[1] = low, high
    with pytest.raises(ValueError, match=r"images must lie in \[-1, 1\], got values from .*; scale pixels of 0..255"):
        Batches(TensorDataset(images, torch.zeros(4)) if as_dataset else images, None, 4, seed=0)(0)


def test_other_bad_images():
    good = torch.zeros(4, 1, 2, 2)
    for arguments, message in [
        ((good[:0], None, 2, 0), "there are no images"),
        ((good[0], None, 2, 0), r"images must have shape \(N, C, H, W\), got \(1, 2, 2\)"),
        ((good, torch.zeros(3), 2, 0), "3 labels for 4 images"),
        ((good, None, 0, 0), "batch_size must be at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Batches(*arguments)


def test_labels_outside_the_classes():
    from utils.diffusion.batches import check_labels

    check_labels(torch.tensor([0, 9]), 10)
    for bad, others in itertools.product([-1, 10, 77], [[], [3]]):
        with pytest.raises(ValueError, match=f"label {bad} is outside the classes 0..9"):
            check_labels(torch.tensor([*others, bad]), 10)

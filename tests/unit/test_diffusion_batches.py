"""Batches: every image once an epoch, in an order that depends on seed and step alone."""

import itertools

import pytest
import torch
from torch.utils.data import TensorDataset

from tests.tiny import OPTIONS, tiny_diffusion, tiny_unet
from utils.diffusion.images import ImageSet
from utils.diffusion.training import batch_at, take, train
from utils.diffusion.unet import check_labels


def test_every_image_is_seen_once_an_epoch_in_a_new_order():
    images = torch.linspace(-1, 1, 12).view(12, 1, 1, 1)
    data = TensorDataset(images, torch.arange(12))
    epochs = [torch.cat([batch_at(data, 3 * e + k, 4, seed=0)[1] for k in range(3)]) for e in range(3)]
    assert all(sorted(order.tolist()) == list(range(12)) for order in epochs)
    assert len({tuple(order.tolist()) for order in epochs}) == 3
    x_0, y = batch_at(data, 7, 4, seed=0)
    torch.testing.assert_close(x_0, images[y])


def test_a_batch_depends_on_seed_and_step_alone():
    images = torch.rand(50, 1, 2, 2)
    expected = [batch_at(images, step, 8, seed=3)[0] for step in range(20)]
    for step in reversed(range(20)):
        assert torch.equal(batch_at(images, step, 8, seed=3)[0], expected[step])
    assert not torch.equal(batch_at(images, 0, 8, seed=4)[0], expected[0])


def test_kinds_of_images():
    pixels = torch.randint(256, (10, 1, 4, 4), dtype=torch.uint8)
    labels = torch.arange(10)
    expected = pixels.float() / 127.5 - 1
    without = {"uint8": pixels, "float": expected, "set without classes": ImageSet(pixels, labels)}
    with_labels = {
        "set": ImageSet(pixels, labels, tuple("abcdefghij")),
        "pairs": TensorDataset(expected, labels),
        "uint8 pairs": TensorDataset(pixels, labels),
    }
    for name, images in {**without, **with_labels}.items():
        x_0, y = take(images, torch.tensor([3, 7]))
        torch.testing.assert_close(x_0, expected[[3, 7]], msg=name)
        assert (None if y is None else y.tolist()) == (None if name in without else [3, 7]), name


def test_fewer_images_than_a_batch():
    few, sizes = torch.zeros(3, 1, 8, 8), []
    model = tiny_unet()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    list(train(model, tiny_diffusion(), few, steps=2, **{**OPTIONS, "batch_size": 128}))
    assert sizes == [3, 3]


@pytest.mark.parametrize("low, high", [(0.0, 255.0), (-1.0, 1.5), (-2.0, 0.0), (float("nan"), 1.0)])
@pytest.mark.parametrize("as_dataset", [False, True])
def test_images_outside_the_range(low, high, as_dataset):
    images = torch.zeros(4, 1, 2, 2)
    images[0, 0, 0, 0], images[1] = low, high
    with pytest.raises(ValueError, match=r"images must lie in \[-1, 1\], got values from .*; scale pixels of 0..255"):
        batch_at(TensorDataset(images, torch.zeros(4)) if as_dataset else images, 0, 4, seed=0)


def test_other_bad_images():
    good = torch.zeros(4, 1, 2, 2)
    for images, message in [(good[:0], "there are no images"), (good[0], r"shape \(N, C, H, W\), got \(N, 2, 2\)")]:
        with pytest.raises(ValueError, match=message):
            next(train(tiny_unet(), tiny_diffusion(), images, steps=1, **OPTIONS))


def test_labels_outside_the_classes():
    check_labels(torch.tensor([0, 9]), 10)
    for bad, others in itertools.product([-1, 10, 77], [[], [3]]):
        with pytest.raises(ValueError, match=f"label {bad} is outside the classes 0..9"):
            check_labels(torch.tensor([*others, bad]), 10)

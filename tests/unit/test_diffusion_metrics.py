"""ImageQuality and the classifier behind it. The distances themselves are tested in tests/interop."""

import functools
import math

import pytest
import torch

from data.make_classifier import accuracy, make_reference, train_classifier
from utils.diffusion.images import ImageSet, load_images, to_float
from utils.diffusion.metrics import (
    FEATURES,
    FOLDER,
    Classifier,
    ImageQuality,
    extract_features,
    frechet_distance,
    gaussian_of,
    kernel_distance,
    load_classifier,
    nearest_ratio,
    precision_recall,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(1)


@functools.cache
def made_up_quality(count=400):
    """An untrained classifier and noise for real images: all of the machinery, none of the meaning."""
    classifier = Classifier().eval()
    train, test = (
        ImageSet(torch.randint(256, (n, 1, 28, 28), dtype=torch.uint8), torch.zeros(n)) for n in (600, count)
    )
    reference = make_reference(classifier, train, test)
    real = (extract_features(classifier, train.images) - reference["features.mean"]) / reference["features.std"]
    return ImageQuality(classifier, reference), real


def test_report_is_the_distances_and_the_floor():
    quality, real = made_up_quality()
    images = torch.rand(300, 1, 28, 28) * 1.6 - 0.6
    report = quality(images, seed=1)
    reference = quality.reference
    features = (extract_features(quality.classifier, images) - reference["features.mean"]) / reference["features.std"]
    assert report.count == 300
    assert report.frechet == pytest.approx(frechet_distance(*gaussian_of(features), *gaussian_of(real)), rel=1e-4)
    assert report.kernel == pytest.approx(kernel_distance(features, real.half().float()), rel=1e-4)
    assert 0 < report.frechet_floor < report.frechet and abs(report.kernel_floor) < report.kernel
    assert str(report).endswith("300 images") and "real against real" in str(report)


def test_floor_is_the_mean_of_draws_of_real_images():
    quality, _ = made_up_quality()
    frechet, kernel = quality.floor(100, draws=4, seed=3)
    report = quality(torch.rand(100, 1, 28, 28) * 2 - 1, seed=3)
    more = quality.floor(100, draws=10, seed=3)[0]
    assert frechet.shape == kernel.shape == (4,) and torch.equal(more[:4], frechet)
    assert report.frechet_floor == pytest.approx(more.mean().item())
    assert report.frechet_spread == pytest.approx(more.std().item())


def test_every_draw_of_the_floor_takes_other_images():
    """Each is the distance of a random set of its own; ten draws of one set would have no spread."""
    quality, _ = made_up_quality()
    frechet, kernel = quality.floor(100, draws=10)
    assert len(set(frechet.tolist())) == len(set(kernel.tolist())) == 10
    report = quality(torch.rand(100, 1, 28, 28) * 2 - 1)
    assert report.frechet_spread > 0.005 * report.frechet_floor
    held_out = quality.reference["test.features"].float()
    whole = quality.floor(len(held_out), draws=3)[0]  # every set is the whole set, in another order
    torch.testing.assert_close(whole, torch.full((3,), quality.frechet(held_out)))


@pytest.mark.parametrize("count", [1, 401])
def test_floor_of_more_images_than_there_are_is_refused(count):
    with pytest.raises(ValueError, match=f"{count} images, but the floor is known for 2 to 400"):
        made_up_quality(400)[0].floor(count)


def test_floor_depends_on_the_seed_and_the_number():
    quality, _ = made_up_quality()
    images = torch.rand(100, 1, 28, 28) * 2 - 1
    assert quality(images, seed=1).frechet_floor == quality(images, seed=1).frechet_floor
    assert quality(images, seed=1).frechet_floor != quality(images, seed=2).frechet_floor
    assert quality(images[:50]).frechet_floor > quality(torch.cat([images] * 3)).frechet_floor


def test_pixels_are_measured_as_their_images():
    quality, _ = made_up_quality()
    found = ImageSet(torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8), torch.zeros(20))
    assert quality(found.pixels).frechet == pytest.approx(quality(found.images).frechet, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_measured_as_float32(dtype):
    quality, images = made_up_quality()[0], torch.rand(20, 1, 28, 28).to(dtype) * 2 - 1
    assert quality(images).frechet == quality(images.float()).frechet


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda x: x * 127.5 + 127.5, r"must lie in \[-1, 1\], got values from \d.* to 25.*; scale pixels of 0..255"),
        (lambda x: x * 3, r"must lie in \[-1, 1\], got values from -[23].* to [23]"),
        (lambda x: (x * 127 + 127).long(), r"must be uint8 0..255 or floats in \[-1, 1\], got torch.int64"),
    ],
)
def test_images_in_another_range_are_refused(wrong, message):
    quality, images = made_up_quality()[0], torch.rand(20, 1, 28, 28) * 2 - 1
    with pytest.raises(ValueError, match=message):
        quality(wrong(images))


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (5, 3, 28, 28), (1, 1, 28, 28), (1, 28, 28)])
def test_images_that_cannot_be_measured(shape):
    with pytest.raises(ValueError, match=r"at least 2 images of shape \(N, 1, 28, 28\), got \("):
        made_up_quality()[0](torch.zeros(shape))


def test_not_a_number_and_too_many():
    quality, _ = made_up_quality(40)
    images = torch.zeros(10, 1, 28, 28)
    for bad in (float("nan"), float("inf"), -float("inf")):
        images[3, 0, 2, 2] = bad
        with pytest.raises(ValueError, match=rf"must lie in \[-1, 1\], got values from .*{bad}"):
            quality(images)
    with pytest.raises(ValueError, match="41 images, but the floor is known for 2 to 40"):
        quality(torch.zeros(41, 1, 28, 28))


def test_absent_classifier_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="make it with: python data/make_classifier.py"):
        load_classifier(tmp_path / "classifier.safetensors")


def test_features_do_not_depend_on_the_batch():
    classifier, images = Classifier().eval(), torch.rand(7, 1, 28, 28)
    whole, parts = extract_features(classifier, images), extract_features(classifier, images, batch_size=3)
    assert whole.shape == (7, FEATURES)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)


def test_classifier_learns():
    """Two of the classes, a trouser and a bag, after a few steps."""
    found = load_images("fashion-mnist", "test")
    keep = ((found.labels == 1) | (found.labels == 8)).nonzero().flatten()[:256]
    pair = ImageSet(found.pixels[keep], found.labels[keep])
    classifier = train_classifier(pair, epochs=12)
    assert accuracy(classifier, pair) > 0.9
    right = (classifier(pair.images).argmax(1) == pair.labels).double().mean().item()
    assert accuracy(classifier, pair) == pytest.approx(right)


def test_shipped_classifier_and_reference():
    """Real images score near the floor, noise far from it, whether or not the full set is on this machine."""
    if not (FOLDER / "reference.safetensors").exists():
        pytest.skip("data/checkpoints has no reference statistics yet")
    quality, test = ImageQuality.load(), load_images("fashion-mnist", "test")
    thousand = ImageSet(test.pixels[:1000], test.labels[:1000])
    assert accuracy(quality.classifier, thousand) > 0.9  # 0.92 on all 10,000, says its card
    report = quality(thousand.pixels)
    assert report.frechet < 2 * report.frechet_floor
    assert quality(torch.rand(1000, 1, 28, 28) * 2 - 1).frechet > 20 * report.frechet_floor


def features(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_density_and_coverage_of_equal_distributions(k):
    """Naeem et al. 2020, Lemmas 1 and 2: means of 1 and of 1 - (N-1)...(N-k) / ((M+N-1)...(M+N-k)), in any space."""
    count, drawn = (20, 30), []
    for seed in range(300):
        points = features(sum(count), 2, seed=seed)
        drawn.append(precision_recall(points[: count[0]], points[count[0] :], k))
    density, coverage = (torch.tensor([one[name] for one in drawn]) for name in ("density", "coverage"))
    miss = math.prod((count[0] - i) / (sum(count) - i) for i in range(1, k + 1))
    assert density.mean().item() == pytest.approx(1, abs=4 * density.std().item() / 300**0.5)
    assert coverage.mean().item() == pytest.approx(1 - miss, abs=4 * coverage.std().item() / 300**0.5)


def test_the_four_see_what_they_should():
    """Two heaps. Generated: one of them (incomplete), both and something else (unfaithful), ten points repeated."""
    heap, other, far = features(100, 3), features(100, 3, seed=1) + 20, features(100, 3, seed=2) - 50
    real = torch.cat([heap, other])
    one = precision_recall(real, features(100, 3, seed=3))
    assert one["precision"] > 0.9 and one["recall"] < 0.55 and one["coverage"] < 0.55
    more = precision_recall(real, torch.cat([features(100, 3, seed=3), features(100, 3, seed=4) + 20, far]))
    assert more["precision"] == pytest.approx(2 / 3, abs=0.05) and more["recall"] > 0.9 and more["coverage"] > 0.9
    repeated = precision_recall(heap, features(10, 3, seed=5).repeat(10, 1))
    assert repeated["recall"] == 0 and repeated["precision"] > 0.5
    same = precision_recall(heap, heap)
    assert same["precision"] == same["recall"] == same["coverage"] == 1


@pytest.mark.parametrize(
    "real, generated, k, message",
    [
        (features(9, 4), features(9, 3), 2, r"with the same D, got \(9, 4\) and \(9, 3\); flatten images first"),
        (features(9, 1, 2, 2), features(9, 1, 2, 2), 2, r"must be \(N, D\) and \(M, D\).*got \(9, 1, 2, 2\)"),
        (features(9, 4), features(5, 4), 5, r"k must lie in 1..4, below the size of each set; got 5"),
        (features(9, 4), features(9, 4), 0, r"k must lie in 1..8.*got 0"),
        (features(9, 4), features(9, 4), 1.5, r"k must lie in 1..8.*got 1.5"),
        (features(9, 4), features(9, 4) / 0, 3, "a feature is not a finite number"),
    ],
)
def test_features_that_have_no_neighbours_are_refused(real, generated, k, message):
    with pytest.raises(ValueError, match=message):
        precision_recall(real, generated, k)


def test_nearest_ratio():
    train, held_out = (torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(k)) * 2 - 1 for k in (0, 1))
    fresh = torch.rand(2000, 1, 6, 6, generator=torch.Generator().manual_seed(2)) * 2 - 1
    ratios = nearest_ratio(fresh, train, held_out)
    by_hand = [
        min(float((x - a).norm()) for a in train) / min(float((x - a).norm()) for a in held_out) for x in fresh[:5]
    ]
    assert ratios[:5].tolist() == pytest.approx(by_hand, rel=1e-4)
    assert (ratios < 1).double().mean().item() == pytest.approx(0.5, abs=0.15)
    assert nearest_ratio(train + 1e-3, train, held_out).max() < 0.02
    assert nearest_ratio(held_out + 1e-3, train, held_out).min() > 50


def test_nearest_ratio_of_pixels_is_that_of_their_images():
    sets = [torch.randint(256, (n, 1, 6, 6), dtype=torch.uint8) for n in (5, 8, 8)]
    torch.testing.assert_close(nearest_ratio(*sets), nearest_ratio(*(to_float(x) for x in sets)))


@pytest.mark.parametrize("shapes", [[(5, 1, 6, 6), (8, 1, 6, 6), (9, 1, 6, 6)], [(5, 1, 4, 4), *[(8, 1, 6, 6)] * 2]])
def test_nearest_ratio_needs_two_sets_of_one_size(shapes):
    with pytest.raises(ValueError, match=r"as many held-out as training images, all of one size; got the shapes \(5, "):
        nearest_ratio(*(torch.zeros(shape) for shape in shapes))

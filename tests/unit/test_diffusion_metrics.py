"""ImageQuality and the classifier behind it. The distances themselves are tested in tests/interop."""

import pytest
import torch

from utils.diffusion.classifier import FEATURES, FOLDER, Classifier, extract_features, load_classifier, train_classifier
from utils.diffusion.images import FASHION_CLASSES, ImageSet, load_images
from utils.diffusion.metrics import ImageQuality, frechet_distance_of, kernel_distance


def made_up_quality(count=400):
    """An untrained classifier and noise for real images: all of the machinery, none of the meaning."""
    torch.manual_seed(0)
    classifier = Classifier().eval()
    train, test = (torch.rand(n, 1, 28, 28) * 2 - 1 for n in (600, count))
    real, held_out = extract_features(classifier, train), extract_features(classifier, test)
    mean, std = real.mean(0), real.std(0)
    real, held_out = (real - mean) / std, (held_out - mean) / std
    reference = {"features.mean": mean, "features.std": std,
                 "train.mean": real.double().mean(0), "train.cov": real.double().T.cov(),
                 "train.features": real.half(), "test.features": held_out.half()}  # fmt: skip
    return ImageQuality(classifier, reference), real


def test_report_is_the_distances_and_the_floor():
    quality, real = made_up_quality()
    images = torch.rand(300, 1, 28, 28) * 1.6 - 0.6
    report = quality(images, seed=1)
    reference = quality.reference
    features = (extract_features(quality.classifier, images) - reference["features.mean"]) / reference["features.std"]
    assert report.count == 300
    assert report.frechet == pytest.approx(frechet_distance_of(features, real), rel=1e-4)
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
    assert report.frechet_spread == pytest.approx(more.std().item()) and report.frechet_spread > 0


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


def test_image_sets_are_measured_as_their_images():
    quality, _ = made_up_quality()
    pixels = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8)
    found = ImageSet(pixels, torch.zeros(20, dtype=torch.long))
    assert quality(found).frechet == pytest.approx(quality(found.images).frechet, rel=1e-6)


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (5, 3, 28, 28), (1, 1, 28, 28), (1, 28, 28)])
def test_images_that_cannot_be_measured(shape):
    with pytest.raises(ValueError, match=r"at least 2 images of shape \(N, 1, 28, 28\), got \("):
        made_up_quality()[0](torch.zeros(shape))


def test_not_a_number_and_too_many():
    quality, _ = made_up_quality(40)
    images = torch.zeros(10, 1, 28, 28)
    images[3, 0, 2, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        quality(images)
    with pytest.raises(ValueError, match="41 images, but the floor is known for at most 40"):
        quality(torch.zeros(41, 1, 28, 28))


def test_absent_classifier_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="make it with: python -m utils.diffusion.classifier"):
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
    pair = ImageSet(found.pixels[keep], found.labels[keep], FASHION_CLASSES)
    classifier = train_classifier(pair, epochs=4)
    with torch.no_grad():
        right = (classifier(pair.images).argmax(1) == pair.labels).float().mean().item()
    assert right > 0.9


def test_shipped_classifier_and_reference():
    """Real images score near the floor, noise far from it, whether or not the full set is on this machine."""
    if not (FOLDER / "reference.safetensors").exists():
        pytest.skip("data/checkpoints has no reference statistics yet")
    from utils.diffusion.classifier import accuracy_of

    quality, test = ImageQuality.load(), load_images("fashion-mnist", "test")
    with torch.no_grad():
        right = (quality.classifier(test[:1000][0]).argmax(1) == test.labels[:1000]).float().mean().item()
    assert accuracy_of() > 0.9 and right > accuracy_of() - 0.03
    report = quality(test[:1000][0])
    assert report.frechet < 2 * report.frechet_floor
    assert quality(torch.rand(1000, 1, 28, 28) * 2 - 1).frechet > 20 * report.frechet_floor

"""How good are generated images? Distances and neighbours on the features of a small classifier, and copies by pixels.

Frechet and kernel distance are 0 for two equal distributions and grow as they part. The number of samples matters to
both: with few, the Frechet distance is too large on average, and the kernel distance, though right on average,
scatters. So each is reported with that number and with the floor: the same measure for as many real images. Distances
on these features are not comparable with those on Inception's. data/make_classifier.py trains the classifier.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from utils.diffusion.checks import check_images
from utils.diffusion.images import ROOT, to_float

FOLDER = ROOT / "data" / "checkpoints"
FEATURES = 64


class Classifier(nn.Module):
    """Three convolutions and two linear layers: images (B, 1, 28, 28) in [-1, 1] -> logits (B, 10)."""

    def __init__(self):
        super().__init__()
        blocks = (
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
            for a, b in ((1, 32), (32, 64), (64, 128))
        )
        self.convs = nn.Sequential(*blocks)
        self.to_features = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 9, FEATURES))
        self.head = nn.Linear(FEATURES, 10)

    def features(self, images: Tensor) -> Tensor:
        """The last layer before the classes, without its ReLU: (B, 64)."""
        return self.to_features(self.convs(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).relu())


def load_classifier(path: Path = FOLDER / "classifier.safetensors") -> Classifier:
    """The trained classifier in evaluation mode. Raises FileNotFoundError with the command that makes it."""
    if not path.exists():
        raise FileNotFoundError(f"{path.name} is missing; make it with: python data/make_classifier.py")
    classifier = Classifier()
    classifier.load_state_dict(load_file(path))
    return classifier.eval()


@torch.no_grad()
def extract_features(classifier: Classifier, images: Tensor, batch_size: int = 500) -> Tensor:
    """Features (N, 64) float32 on the CPU of images (N, 1, 28, 28), floats in [-1, 1] or uint8 pixels."""
    device = next(classifier.parameters()).device
    floats = (to_float(part).to(device, torch.float32) for part in images.split(batch_size))
    return torch.cat([classifier.features(part).cpu() for part in floats])


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|m_a - m_b|^2 + trace(C_a + C_b - 2 (C_a C_b)^(1/2)) of two Gaussians (Heusel et al. 2017, eq. 6).

    Means (D,) and covariances (D, D), symmetric and positive semi-definite. The trace of the root is the
    sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is symmetric: no complex numbers.
    """
    mean_a, cov_a, mean_b, cov_b = (x.double().numpy() for x in (mean_a, cov_a, mean_b, cov_b))
    values, vectors = scipy.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(scipy.linalg.eigvalsh(root_a @ cov_b @ root_a).clip(min=0)).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return float(max(distance, 0.0))


def gaussian_of(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of features (N, D), in float64."""
    return features.double().mean(0), features.double().T.cov()


def kernel_distance(features_a: Tensor, features_b: Tensor, within_b: float | None = None) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018, KID).

    The unbiased estimate, from features (N, D) and (M, D): it can be slightly below 0 for equal distributions.
    `within_b` is `mean_kernel(features_b)`, where it is known already: for many rows it takes most of the time.
    """
    within_b = mean_kernel(features_b) if within_b is None else within_b
    return mean_kernel(features_a) + within_b - 2 * float(_kernel(features_a, features_b).mean())


def mean_kernel(features: Tensor) -> float:
    """The kernel's mean over all pairs of two different rows of features (N, D)."""
    within, count = _kernel(features, features), len(features)
    return float((within.sum() - within.diagonal().sum()) / (count * (count - 1)))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3


def precision_recall(real: Tensor, generated: Tensor, k: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage of generated features (M, D) beside real ones (N, D).

    Every point has a ball that reaches to the k-th nearest point of its own set. Precision is the share of generated
    points that lie in a real ball, recall the share of real ones that lie in a generated ball (Kynkäänniemi et al.
    2019, eq. 1 and 2). Density is the number of real balls around a generated point, divided by k, and coverage the
    share of real balls that hold a generated point (Naeem et al. 2020, section 3).

    All depend on N, M and k: compare sets of one size. Raises ValueError where k is not 1 to the smaller size less 1,
    the sets are no matrices with as many columns, or a feature is no finite number.
    """
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        shapes = f"{tuple(real.shape)} and {tuple(generated.shape)}"
        raise ValueError(f"features must be (N, D) and (M, D) with the same D, got {shapes}; flatten images first")
    if k not in range(1, min(len(real), len(generated))):
        raise ValueError(f"k must lie in 1..{min(len(real), len(generated)) - 1}, below the size of each set; got {k}")
    if not (real.isfinite().all() and generated.isfinite().all()):
        raise ValueError("a feature is not a finite number: its image holds NaN, or the network that made it diverged")
    gaps = _distances(real, generated)
    in_real, in_generated = gaps <= _reach(real, k)[:, None], gaps <= _reach(generated, k)
    shares = in_real.any(0), in_generated.any(1), in_real.double().sum(0) / k, in_real.any(1)
    names = ("precision", "recall", "density", "coverage")
    return {name: float(share.double().mean()) for name, share in zip(names, shares)}


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Between all rows, (N, M) float64; not by a matrix product, so that a row's distance to its copy is 0."""
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _reach(points: Tensor, k: int) -> Tensor:
    """Each point's distance to its k-th nearest other one, (N,); the point itself is the first of k + 1."""
    return _distances(points, points).kthvalue(k + 1).values


def nearest_ratio(images: Tensor, train: Tensor, held_out: Tensor) -> Tensor:
    """Each image's distance to the nearest training image over that to the nearest held-out one, by pixels: (N,).

    Where the training images are nothing special the ratio lies about 1, as often above as below; a copy's is near 0.
    That needs as many held-out images as training ones, of the same source. All are (N, C, H, W), floats or uint8.
    Raises ValueError where the two sets differ in size, or the images in shape.
    """
    if train.shape != held_out.shape or images.shape[1:] != train.shape[1:]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (images, train, held_out))
        raise ValueError(f"give as many held-out as training images, all of one size; got the shapes {shapes}")
    asked, *known = (to_float(x).flatten(1) for x in (images, train, held_out))
    to_train, to_held_out = (torch.cdist(asked, x).min(1).values for x in known)
    return to_train / to_held_out


@dataclass(frozen=True)
class QualityReport:
    """Distances of `count` images to real ones, and the floor: the same for as many real test images.

    The floor is the mean over several draws of test images, `..._spread` its standard deviation from draw to draw.
    """

    frechet: float
    kernel: float
    count: int
    frechet_floor: float
    frechet_spread: float
    kernel_floor: float
    kernel_spread: float

    def __str__(self) -> str:
        frechet = f"{self.frechet:.2f} (real against real {self.frechet_floor:.2f} ± {self.frechet_spread:.2f})"
        kernel = f"{self.kernel:.4f} (real against real {self.kernel_floor:.4f} ± {self.kernel_spread:.4f})"
        return f"Frechet distance {frechet}, kernel distance {kernel}, {self.count:,} images"


class ImageQuality:
    """Measures images against the full Fashion-MNIST training set: report = ImageQuality.load()(images)."""

    def __init__(self, classifier: Classifier, reference: dict[str, Tensor]):
        self.classifier, self.reference = classifier, reference

    @classmethod
    def load(cls) -> "ImageQuality":
        """From data/checkpoints. Raises FileNotFoundError with the command that makes the files."""
        return cls(load_classifier(), load_file(FOLDER / "reference.safetensors"))

    def __call__(self, images: Tensor, seed: int = 0) -> QualityReport:
        """Report on N images, 2 to 10,000, as `features` takes them; the floor is drawn 10 times, with `seed`."""
        features = self.features(images)
        frechet, kernel = self.floor(len(features), seed=seed)
        floors = map(float, (frechet.mean(), frechet.std(), kernel.mean(), kernel.std()))
        return QualityReport(self.frechet(features), self.kernel(features), len(features), *floors)

    def floor(self, count: int, draws: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Frechet and kernel distance, (draws,) each, of `count` of the 10,000 real test images to the training set.

        Each draw is without replacement. Draws share images, so their spread is too small where count comes near
        10,000, at which each is the same set. Raises ValueError where count is not 2 to 10,000.
        """
        held_out, generator = self.reference["test.features"].float(), torch.Generator().manual_seed(seed)
        if not 2 <= count <= len(held_out):
            raise ValueError(f"{count} images, but the floor is known for 2 to {len(held_out)}; measure as many")
        drawn = [held_out[torch.randperm(len(held_out), generator=generator)[:count]] for _ in range(draws)]
        return torch.tensor([self.frechet(f) for f in drawn]), torch.tensor([self.kernel(f) for f in drawn])

    def features(self, images: Tensor) -> Tensor:
        """Standardised features (N, 64) of images (N, 1, 28, 28), floats in [-1, 1] or uint8 pixels, N at least 2.

        Raises ValueError for another shape and for values outside these ranges or that are no finite numbers.
        """
        if images.shape[1:] != (1, 28, 28) or len(images) < 2:
            shape = tuple(images.shape)
            raise ValueError(f"image quality is measured on at least 2 images of shape (N, 1, 28, 28), got {shape}")
        check_images(images.cpu())
        features = extract_features(self.classifier, images)
        return (features - self.reference["features.mean"]) / self.reference["features.std"]

    def frechet(self, features: Tensor) -> float:
        """Frechet distance of features (N, 64) to the training set."""
        return frechet_distance(*gaussian_of(features), self.reference["train.mean"], self.reference["train.cov"])

    def kernel(self, features: Tensor) -> float:
        """Kernel distance of features (N, 64) to 5,000 images of the training set."""
        return kernel_distance(features, self.reference["train.features"].float(), self._train_kernel)

    @cached_property
    def _train_kernel(self) -> float:
        return mean_kernel(self.reference["train.features"].float())

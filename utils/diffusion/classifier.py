"""The small classifier whose features measure image quality: `python -m utils.diffusion.classifier` makes it.

It is trained here on Fashion-MNIST and kept in data/checkpoints with its accuracy. Distances on its
features are not comparable with those on Inception's; the real-against-real floor is given beside them.
"""

import itertools
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from utils.diffusion.images import ROOT, ImageSet, load_images
from utils.files import write_atomically

FOLDER = ROOT / "data" / "checkpoints"
FEATURES = 64
SEED, EPOCHS, BATCH_SIZE, LEARNING_RATE = 0, 6, 128, 2e-3


class Classifier(nn.Module):
    """Three convolutions and two linear layers: images (B, 1, 28, 28) in [-1, 1] -> logits (B, 10)."""

    def __init__(self):
        super().__init__()
        widths = (1, 32, 64, 128)
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
            for a, b in itertools.pairwise(widths)
        )
        self.to_features = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 9, FEATURES))
        self.head = nn.Linear(FEATURES, 10)

    def features(self, images: Tensor) -> Tensor:
        """The last layer before the classes, without its ReLU: (B, 64)."""
        for conv in self.convs:
            images = conv(images)
        return self.to_features(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.relu(self.features(images)))


def load_classifier(path: Path = FOLDER / "classifier.safetensors") -> Classifier:
    """The trained classifier in evaluation mode. Raises FileNotFoundError with the command that makes it."""
    if not path.exists():
        raise FileNotFoundError(f"{path.name} is missing; make it with: python -m utils.diffusion.classifier")
    classifier = Classifier()
    classifier.load_state_dict(load_file(path))
    return classifier.eval()


def accuracy_of(path: Path = FOLDER / "classifier.safetensors") -> float:
    """The test accuracy kept with the classifier, 0 to 1."""
    with safe_open(path, framework="pt") as file:
        return float(json.loads(file.metadata()["notes"])["test_accuracy"])


@torch.no_grad()
def extract_features(classifier: Classifier, images: Tensor | ImageSet, batch_size: int = 500) -> Tensor:
    """Features (N, 64) float32 on the CPU of images (N, 1, 28, 28) in [-1, 1] or of an ImageSet."""
    device = next(classifier.parameters()).device
    parts = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        part = part[0] if isinstance(images, ImageSet) else part
        parts.append(classifier.features(part.to(device)).cpu())
    return torch.cat(parts)


def train_classifier(images: ImageSet, epochs: int = EPOCHS, seed: int = SEED) -> Classifier:
    """Adam with a one-cycle learning rate; images are mirrored at random."""
    torch.manual_seed(seed)
    classifier = Classifier().to(memory_format=torch.channels_last)
    steps = epochs * (len(images) // BATCH_SIZE)
    optimizer = torch.optim.Adam(classifier.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    # One long list of indices: a permutation per epoch, without the images that do not fill a batch.
    whole = steps // epochs * BATCH_SIZE
    order = torch.cat([torch.randperm(len(images))[:whole] for _ in range(epochs)])
    for step in tqdm(range(steps), desc="classifier"):
        x, y = images[order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]]
        flipped = torch.rand(len(x), 1, 1, 1) < 0.5
        x = torch.where(flipped, x.flip(-1), x)
        loss = F.cross_entropy(classifier(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


@torch.no_grad()
def test_accuracy(classifier: Classifier, images: ImageSet) -> float:
    """Share of images put into their class, 0 to 1."""
    right = [(classifier(images[i : i + 500][0]).argmax(1) == images.labels[i : i + 500]).sum().item()
             for i in range(0, len(images), 500)]  # fmt: skip
    return sum(right) / len(images)


def make_reference(classifier: Classifier, train_set: ImageSet, test_set: ImageSet) -> dict[str, Tensor]:
    """What image quality is measured against: statistics of real images, and the features of some.

    All features are standardised by the training set's mean and standard deviation, so that a distance does
    not depend on the scale at which the classifier happened to arrive.
    """
    real, held_out = extract_features(classifier, train_set), extract_features(classifier, test_set)
    mean, std = real.mean(0), real.std(0)
    real, held_out = (real - mean) / std, (held_out - mean) / std
    return {
        "features.mean": mean, "features.std": std,
        "train.mean": real.double().mean(0), "train.cov": real.double().T.cov(),
        "test.mean": held_out.double().mean(0), "test.cov": held_out.double().T.cov(),
        "train.features": real[:: len(real) // 5000].half(), "test.features": held_out.half(),
    }  # fmt: skip


def main() -> None:
    started = time.time()
    train_set, test_set = load_images("fashion-mnist", "train"), load_images("fashion-mnist", "test")
    if len(train_set) < 60_000:
        raise SystemExit("the full Fashion-MNIST is needed here, and only the small set was found")
    classifier = train_classifier(train_set)
    notes = {"test_accuracy": test_accuracy(classifier, test_set), "epochs": EPOCHS, "seed": SEED}
    weights = {name: value.contiguous() for name, value in classifier.state_dict().items()}
    header = {"notes": json.dumps(notes)}
    write_atomically(FOLDER / "classifier.safetensors", lambda part: save_file(weights, part, metadata=header))
    reference = make_reference(classifier, train_set, test_set)
    write_atomically(FOLDER / "reference.safetensors", lambda part: save_file(reference, part))
    print(f"test accuracy {notes['test_accuracy']:.4f} after {EPOCHS} epochs, {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()

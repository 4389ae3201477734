"""The small classifier whose features measure image quality; data/make_classifier.py trains it.

Distances on its features are not comparable with those on Inception's; the floor is given beside them.
"""

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from utils.diffusion.images import ROOT, to_float

FOLDER = ROOT / "data" / "checkpoints"
FEATURES = 64


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

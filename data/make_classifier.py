"""Make data/checkpoints/classifier.safetensors and reference.safetensors: `python data/make_classifier.py`.

Trains the classifier whose features measure image quality on the full Fashion-MNIST, and keeps the statistics
of the real images that generated ones are measured against.
"""

import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.diffusion.images import ImageSet, load_images
from utils.diffusion.metrics import FOLDER, Classifier, extract_features
from utils.files import write_atomically

SEED, EPOCHS, BATCH_SIZE, LEARNING_RATE = 0, 6, 128, 2e-3
REFERENCE_IMAGES = 5000  # whose features are kept, for the kernel distance


def train_classifier(images: ImageSet, epochs: int = EPOCHS, seed: int = SEED) -> Classifier:
    """Adam with a one-cycle learning rate; images are mirrored at random."""
    torch.manual_seed(seed)
    classifier = Classifier().to(memory_format=torch.channels_last)
    steps_per_epoch = len(images) // BATCH_SIZE  # what does not fill a batch is left out
    optimizer = torch.optim.Adam(classifier.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * steps_per_epoch)
    orders = [torch.randperm(len(images))[: steps_per_epoch * BATCH_SIZE] for _ in range(epochs)]
    for batch in tqdm(torch.cat(orders).split(BATCH_SIZE), desc="classifier"):
        x, y = images[batch]
        flipped = torch.rand(len(x), 1, 1, 1) < 0.5
        x = torch.where(flipped, x.flip(-1), x)
        loss = F.cross_entropy(classifier(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


@torch.no_grad()
def accuracy(classifier: Classifier, images: ImageSet) -> float:
    """Share of images put into their class, 0 to 1."""
    logits = classifier.head(F.relu(extract_features(classifier, images.pixels)))
    return (logits.argmax(1) == images.labels).double().mean().item()


def make_reference(classifier: Classifier, train_set: ImageSet, test_set: ImageSet) -> dict[str, Tensor]:
    """What image quality is measured against: statistics of real images, and the features of some.

    All features are standardised by the training set's mean and standard deviation, so that a distance does
    not depend on the scale at which the classifier happened to arrive.
    """
    real, held_out = (extract_features(classifier, images.pixels) for images in (train_set, test_set))
    mean, std = real.mean(0), real.std(0)
    real, held_out = (real - mean) / std, (held_out - mean) / std
    return {
        "features.mean": mean,
        "features.std": std,
        "train.mean": real.double().mean(0),
        "train.cov": real.double().T.cov(),
        "train.features": real[:: max(1, len(real) // REFERENCE_IMAGES)].half(),
        "test.features": held_out.half(),
    }


def main() -> None:
    started = time.time()
    train_set, test_set = load_images("fashion-mnist", "train"), load_images("fashion-mnist", "test")
    if len(train_set) < 60_000:
        raise SystemExit("the full Fashion-MNIST is needed here, and only the small set was found")
    classifier = train_classifier(train_set)
    notes = {"test_accuracy": accuracy(classifier, test_set), "epochs": EPOCHS, "seed": SEED}
    weights = {name: value.contiguous() for name, value in classifier.state_dict().items()}
    header = {"notes": json.dumps(notes)}
    write_atomically(FOLDER / "classifier.safetensors", lambda part: save_file(weights, part, metadata=header))
    reference = make_reference(classifier, train_set, test_set)
    write_atomically(FOLDER / "reference.safetensors", lambda part: save_file(reference, part))
    print(f"test accuracy {notes['test_accuracy']:.4f} after {EPOCHS} epochs, {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()

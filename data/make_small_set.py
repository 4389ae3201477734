"""Make data/fashion-mnist-small from the full Fashion-MNIST: `python data/make_small_set.py`.

Takes the first images of each class in the order of the original files: 1,000 of each for training and 100
of each for testing. The same input gives the same bytes.
"""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.diffusion.images import FASHION_FILES, load_images, write_idx  # noqa: E402

PER_CLASS = {"train": 1000, "test": 100}


def main() -> None:
    for split, count in PER_CLASS.items():
        full = load_images("fashion-mnist", split)
        if len(full) < 10 * count * 2:
            raise SystemExit(f"the full {split} set is needed and was not found: {full.source}")
        chosen = torch.cat([(full.labels == k).nonzero().flatten()[:count] for k in range(10)]).sort().values
        images, labels = FASHION_FILES[split]
        folder = ROOT / "data" / "fashion-mnist-small"
        write_idx(full.pixels[chosen, 0], folder / images)
        write_idx(full.labels[chosen].byte(), folder / labels)
        print(f"{split}: {len(chosen):,} images")


if __name__ == "__main__":
    main()

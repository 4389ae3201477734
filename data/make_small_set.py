"""Make data/fashion-mnist-small from the full Fashion-MNIST: `python data/make_small_set.py`.

Takes the first images of each class in the order of the original files: 1,000 of each for training and 100
of each for testing. The same input gives the same bytes.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.diffusion.images import FASHION_FILES, ImageSet, load_images  # noqa: E402

PER_CLASS = {"train": 1000, "test": 100}


def choose(full: ImageSet, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` images of each class (10 x count, 28, 28) and their labels, both uint8."""
    chosen = torch.cat([(full.labels == k).nonzero().flatten()[:count] for k in range(10)]).sort().values
    return full.pixels[chosen, 0], full.labels[chosen].byte()


def write_idx(array: Tensor, path: Path) -> None:
    """A uint8 array as gzipped IDX; the same array gives the same bytes (no name or time in the header)."""
    header = b"\x00\x00\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(header + array.numpy().tobytes())


def main() -> None:
    for split, count in PER_CLASS.items():
        full = load_images("fashion-mnist", split)
        if len(full) < 10 * count * 2:
            raise SystemExit(f"the full {split} set is needed and was not found: {full.source}")
        for array, name in zip(choose(full, count), FASHION_FILES[split]):
            write_idx(array, ROOT / "data" / "fashion-mnist-small" / name)
        print(f"{split}: {10 * count:,} images")


if __name__ == "__main__":
    main()

"""Images to train on: `load_images` finds them, keeps them as uint8, and hands them out in [-1, 1].

Fashion-MNIST is looked for in this order: the course's cache (data/cache), a copy the machine has
(COURSE_DATA, Debian's package dataset-fashion-mnist), the public source, and at last the small set that
the repository carries. One printed line says which it was.
"""

import gzip
import hashlib
import os
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from utils.files import download as fetch

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("fashion-mnist", "digits")
SPLITS = ("train", "test")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
FASHION_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                   "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")  # fmt: skip
# Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747; MIT licence. Checksums are of the unpacked bytes, so that
# copies packed by different versions of gzip pass.
FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
FASHION_SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclass
class ImageSet:
    """Images in memory as uint8; `images, labels = load_images(...)` unpacks it.

    Attributes:
        pixels: uint8 (N, C, H, W), 0 to 255.
        labels: int64 (N,), all 0 where the source has no classes.
        classes: the name of each class.
        source: where the images came from, in a few words.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    source: str = ""

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index) -> tuple[Tensor, Tensor]:
        """Images (float32, in [-1, 1]) and labels at an index, a slice or a tensor of indices."""
        return to_float(self.pixels[index]), self.labels[index]

    def __iter__(self):
        return iter((self.images, self.labels))

    @property
    def images(self) -> Tensor:
        """All images as float32 (N, C, H, W) in [-1, 1]: four times the memory of `pixels`."""
        return to_float(self.pixels)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def load_images(
    source: str | Path = "fashion-mnist", split: str = "train", size: int | None = None, channels: int | None = None
) -> ImageSet:
    """Images and labels to train on.

    Args:
        source: "fashion-mnist" (28x28 grey, 10 classes), "digits" (8x8 grey, scikit-learn's) or a folder of
            pictures; its sub-folders, if any, are the classes.
        split: "train" or "test"; a folder has only "train".
        size: height and width to resize to; a folder's pictures are cut to their middle square first and
            become 64x64 when not given.
        channels: 1 for grey, 3 for colour; as the source has them when not given (a folder: 3).
    Raises:
        ValueError: an unknown source or split, or a folder without pictures.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if source == "fashion-mnist":
        found = _fashion_mnist(split)
    elif source == "digits":
        found = _digits(split)
    elif Path(source).is_dir():
        return _folder(Path(source), size or 64, channels or 3)
    else:
        raise ValueError(
            f"unknown data set {str(source)!r}; choose one of {', '.join(SOURCES)}, or give an existing folder "
            "of pictures"
        )
    if size and size != found.pixels.shape[-1]:
        resized = F.interpolate(found.pixels.float(), size=(size, size), mode="bilinear", antialias=True)
        found.pixels = resized.round().clamp(0, 255).byte()
    if channels and channels != found.pixels.shape[1]:
        found.pixels = found.pixels.expand(-1, channels, -1, -1).contiguous()
    return found


# -- Fashion-MNIST ---------------------------------------------------------------------------------


def _fashion_mnist(split: str) -> ImageSet:
    names = FASHION_FILES[split]
    for folder, origin in _local_folders():
        if all((folder / name).exists() for name in names) and all(_is_whole(folder / name) for name in names):
            return _read_fashion(folder, names, f"Fashion-MNIST {split}, {origin}")
    cache = ROOT / "data" / "cache" / "fashion-mnist"
    try:
        for name in names:
            download(FASHION_URL + name, cache / name, FASHION_SHA256[name])
        return _read_fashion(cache, names, f"Fashion-MNIST {split}, downloaded")
    except OSError as error:
        small = ROOT / "data" / "fashion-mnist-small"
        reason = f"no full copy here and none to be had ({error})"
        return _read_fashion(small, names, f"Fashion-MNIST {split}, the small set of the repository: {reason}")


def _local_folders() -> list[tuple[Path, str]]:
    folders = [(ROOT / "data" / "cache" / "fashion-mnist", "from the cache")]
    if os.environ.get("COURSE_DATA"):
        folders.append((Path(os.environ["COURSE_DATA"]) / "fashion-mnist", "from COURSE_DATA"))
    folders.append((Path("/usr/share/datasets/fashion-mnist"), "from this machine's package"))
    return folders


def _is_whole(path: Path) -> bool:
    try:
        whole = hashlib.sha256(_unpack(path)).hexdigest() == FASHION_SHA256[path.name]
    except (OSError, EOFError, zlib.error):
        whole = False
    if not whole:
        warnings.warn(f"{path} is damaged (its SHA-256 is wrong) and is passed over; delete it", stacklevel=2)
    return whole


def _unpack(path: Path) -> bytes:
    with gzip.open(path) as file:
        return file.read()


def _read_fashion(folder: Path, names: tuple[str, str], source: str) -> ImageSet:
    pixels, labels = (read_idx(folder / name) for name in names)
    print(f"{source}: {len(pixels):,} images")
    return ImageSet(pixels[:, None], labels.long(), FASHION_CLASSES, source)


def read_idx(path: Path) -> Tensor:
    """A gzipped IDX file (two zero bytes, type 8, number of axes, their lengths, the bytes) as uint8."""
    data = _unpack(path)
    if data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path.name} is no IDX file of unsigned bytes: it begins with {data[:4].hex()}")
    axes = data[3]
    shape = np.frombuffer(data, ">i4", axes, offset=4)
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape).copy())


def write_idx(array: Tensor, path: Path) -> None:
    """The opposite of `read_idx`; the same array gives the same bytes (no name or time in the header)."""
    header = b"\x00\x00\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(header + array.numpy().tobytes())


def download(url: str, path: Path, sha256: str, timeout: float = 20) -> None:
    """Fetch a gzipped file, all of it or nothing; `sha256` is of the unpacked bytes. Raises OSError."""
    fetch(url, path, sha256, timeout, unpack=_unpack)


# -- other sources ---------------------------------------------------------------------------------


def _digits(split: str) -> ImageSet:
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    data = load_digits()
    pixels = torch.from_numpy((data.images * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target).long()
    part = slice(0, 1500) if split == "train" else slice(1500, None)
    classes = tuple(str(digit) for digit in range(10))
    return ImageSet(pixels[part], labels[part], classes, f"scikit-learn's digits {split}")


def _folder(folder: Path, size: int, channels: int) -> ImageSet:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ValueError(f"no pictures in {folder}: looked for {', '.join(sorted(SUFFIXES))} there and below")
    classes = tuple(sorted({p.relative_to(folder).parts[0] for p in paths if p.parent != folder}))
    images, labels, skipped = [], [], []
    for path in tqdm(paths, desc="pictures", leave=False):
        try:
            images.append(_open_square(path, size, channels))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
            skipped.append(path.name)
            continue
        labels.append(classes.index(path.relative_to(folder).parts[0]) if path.parent != folder else 0)
    if not images:
        raise ValueError(f"none of the {len(paths)} pictures in {folder} opens; the first is {skipped[0]}")
    if skipped:
        named = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        warnings.warn(f"{len(skipped)} of {len(paths)} pictures do not open and were skipped: {named}", stacklevel=3)
    print(f"{folder.name}: {len(images):,} pictures of {size}x{size}")
    return ImageSet(torch.stack(images), torch.tensor(labels), classes, f"the folder {folder.name}")


def _open_square(path: Path, size: int, channels: int) -> Tensor:
    with Image.open(path) as picture:
        picture = picture.convert("L" if channels == 1 else "RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    array = np.array(picture)
    return torch.from_numpy(array[None] if channels == 1 else array.transpose(2, 0, 1).copy())

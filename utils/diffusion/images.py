"""Images to train on: `load_images` finds them, keeps them as uint8, and hands them out in [-1, 1].

Fashion-MNIST is looked for in this order: the course's cache (data/cache), a copy the machine has (COURSE_DATA,
Debian's package dataset-fashion-mnist), the public source, and at last the small set that the repository carries. One
printed line says which it was.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import math
import os
import socket
import tempfile
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor
from torchvision.transforms.v2 import functional
from torchvision.utils import save_image
from tqdm.auto import tqdm

from utils.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = Path("/usr/share/datasets")
SOURCES = ("fashion-mnist", "cifar10", "digits")
SPLITS = ("train", "test")
SUFFIXES = (*IMG_EXTENSIONS, ".gif")
TIMEOUT = 20  # seconds without an answer until a download counts as broken off
# Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747; MIT licence. The SHA-256 of the unpacked bytes, so that copies
# packed by different versions of gzip pass; images first, then labels.
FASHION_FILES = {
    "train": {
        "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    },
    "test": {
        "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}


@dataclass
class ImageSet:
    """Images in memory as uint8, with their labels: a map-style data set, `image, label = data[3]`.

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
        source: "fashion-mnist" (28x28 grey, 10 classes), "cifar10" (32x32 colour, 10 classes), "digits" (8x8 grey,
            scikit-learn's) or a folder of pictures; its sub-folders, where every picture lies in one, are the classes.
        split: "train" or "test"; a folder has only "train".
        size: height and width to resize to; a folder's pictures are cut to their middle square first and
            become 64x64 when not given.
        channels: 1 for grey, 3 for colour; as the source has them when not given (a folder: 3).
    Raises ValueError: an unknown source or split, other channels, or a folder without pictures. OSError: CIFAR-10 is
    not on this machine and cannot be downloaded.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels}")
    if source not in SOURCES:
        if Path(source).is_dir():
            return _folder(Path(source), size or 64, channels or 3)
        known = f"{', '.join(SOURCES)}, or give an existing folder of pictures"
        raise ValueError(f"unknown data set {str(source)!r}; choose one of {known}")
    found = {"fashion-mnist": _fashion_mnist, "cifar10": _cifar10, "digits": _digits}[source](split)
    if size:
        found.pixels = functional.resize(found.pixels, [size, size], antialias=True)
    if channels == 1:
        found.pixels = functional.rgb_to_grayscale(found.pixels)
    elif channels == 3:
        found.pixels = found.pixels.expand(-1, 3, -1, -1).contiguous()
    return found


def save_grid(images: Tensor, path: str | Path, columns: int | None = None, scale: int = 1) -> Path:
    """Write images (N, C, H, W), C = 1 or 3, as one PNG grid, clamped to [-1, 1]; whole or not at all.

    Args:
        columns: images in a row; about a square if None.
        scale: pixels of the file for each pixel of an image, a whole number.
    Raises ValueError: a value is not a number.
    """
    if images.isnan().any():
        raise ValueError(f"{int(images.isnan().sum())} of {images.numel()} image values are not a number (NaN)")
    large = images.float().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    grid = dict(nrow=columns or math.ceil(math.sqrt(len(images))), padding=2 * scale, pad_value=1.0)
    scaled = dict(normalize=True, value_range=(-1, 1))
    write_atomically(path, lambda part: save_image(large, part, format="png", **grid, **scaled))
    return Path(path)


# -- data sets with a name -------------------------------------------------------------------------


def _homes() -> dict[str, Path]:
    """Where data sets may lie on this machine, in the order in which they are looked for."""
    homes = {"from the cache": ROOT / "data" / "cache"}
    if os.environ.get("COURSE_DATA"):
        homes["from COURSE_DATA"] = Path(os.environ["COURSE_DATA"])
    return homes | {"from this machine's package": DEBIAN}


def _fashion_mnist(split: str) -> ImageSet:
    for origin, home in _homes().items():
        folder = home / "fashion-mnist"
        if all((folder / name).exists() for name in FASHION_FILES[split]):
            try:
                return _read_fashion(folder, split, origin)
            except OSError as error:
                warnings.warn(f"{error}; it is passed over, delete it", stacklevel=3)
    try:
        folder = ROOT / "data" / "cache" / "fashion-mnist"
        _download_fashion(folder)
        return _read_fashion(folder, split, "downloaded")
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())
        small = f"the small set of the repository: no full copy here and none to be had ({reason})"
        return _read_fashion(ROOT / "data" / "fashion-mnist-small", split, small, check=False)


def _read_fashion(folder: Path, split: str, origin: str, check: bool = True) -> ImageSet:
    pixels, labels = (read_idx(folder / name, sha if check else None) for name, sha in FASHION_FILES[split].items())
    source = f"Fashion-MNIST {split}, {origin}"
    print(f"{source}: {len(pixels):,} images")
    return ImageSet(pixels[:, None], labels.long(), tuple(datasets.FashionMNIST.classes), source)


def read_idx(path: Path, sha256: str | None = None) -> Tensor:
    """A gzipped IDX file as a uint8 tensor. Raises OSError where the SHA-256 of the unpacked bytes is another one."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise OSError(f"{path} is damaged ({error})") from error
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise OSError(f"{path} is damaged (its SHA-256 is wrong)")
    with tempfile.TemporaryDirectory() as folder:  # torchvision reads a file by its name, and unpacked
        plain = Path(folder) / path.stem
        plain.write_bytes(data)
        return read_sn3_pascalvincent_tensor(str(plain))


def _download_fashion(folder: Path) -> None:
    """All four files, checked by torchvision against its MD5 sums; what breaks off leaves nothing behind."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        for path in Path(_patiently(datasets.FashionMNIST, part, download=True).raw_folder).glob("*.gz"):
            os.replace(path, folder / path.name)


def _patiently(dataset: type, *args, **options):
    """A torchvision data set whose download gives up after TIMEOUT, and prints nothing but its progress bars."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return dataset(*args, **options)
    finally:
        socket.setdefaulttimeout(before)


def _cifar10(split: str) -> ImageSet:
    """Krizhevsky 2009. torchvision checks each file's MD5 before it reads it."""
    present = (home for home in _homes().values() if (home / datasets.CIFAR10.base_folder).is_dir())
    home = next(present, ROOT / "data" / "cache")
    try:
        found = _patiently(datasets.CIFAR10, home, train=split == "train", download=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        advice = f"unpack {datasets.CIFAR10.filename} from https://www.cs.toronto.edu/~kriz/cifar.html in data/cache"
        raise OSError(f"CIFAR-10 is not on this machine and cannot be downloaded ({error}); {advice}") from error
    print(f"CIFAR-10 {split}: {len(found.data):,} images")
    pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(pixels, torch.tensor(found.targets), tuple(found.classes), f"CIFAR-10 {split}")


def _digits(split: str) -> ImageSet:
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    data = load_digits()
    pixels = torch.from_numpy((data.images * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target).long()
    part = slice(0, 1500) if split == "train" else slice(1500, None)
    return ImageSet(pixels[part], labels[part], tuple("0123456789"), f"scikit-learn's digits {split}")


# -- pictures of one's own -------------------------------------------------------------------------


def _folder(folder: Path, size: int, channels: int) -> ImageSet:
    paths = [path for path in sorted(folder.rglob("*")) if _is_picture(path, folder)]
    if not paths:
        raise ValueError(f"no pictures in {folder}: looked for {', '.join(SUFFIXES)} there and below")
    names = [path.relative_to(folder).parts[0] for path in paths]
    classes = tuple(sorted(set(names))) if all(path.parent != folder for path in paths) else ()
    images, labels, skipped = [], [], []
    for path, name in zip(tqdm(paths, desc="pictures", leave=False), names):
        try:
            images.append(_open_square(path, size, channels))
            labels.append(classes.index(name) if classes else 0)
        except Exception:  # a damaged file raises nearly anything, SyntaxError and struct.error among it
            skipped.append(path.name)
    if not images:
        raise ValueError(f"none of the {len(paths)} pictures in {folder} opens; the first is {skipped[0]}")
    if skipped:
        named = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        warnings.warn(f"{len(skipped)} of {len(paths)} pictures do not open and were skipped: {named}", stacklevel=3)
    print(f"{folder.name}: {len(images):,} pictures of {size}x{size}, {len(classes) or 'no'} classes")
    return ImageSet(torch.stack(images), torch.tensor(labels), classes, f"the folder {folder.name}")


def _is_picture(path: Path, folder: Path) -> bool:
    """Not in a hidden folder (.git, .ipynb_checkpoints), nor what macOS adds to an archive (__MACOSX, ._name)."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def _open_square(path: Path, size: int, channels: int) -> Tensor:
    """The middle square of a picture as uint8 (C, size, size), upright, on white where it is transparent."""
    with Image.open(path) as picture:  # torchvision.io reads neither BMP nor TIFF, and drops an alpha channel
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # grey with 16 bits, which Pillow would cut off at 255
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) / 257).round().astype(np.uint8))
    picture = picture.convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = functional.center_crop(picture.convert("L" if channels == 1 else "RGB"), [min(picture.size)])
    return functional.resize(functional.pil_to_tensor(picture), [size, size], antialias=True)

"""Images to train on: `load_images` finds them, keeps them as uint8, and hands them out in [-1, 1]."""

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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import functional
from torchvision.utils import save_image
from tqdm.auto import tqdm

from utils.diffusion.checks import check_numbers
from utils.diffusion.pictures import read_folder
from utils.files import ROOT, find_copy, say, write_atomically

DEBIAN = Path("/usr/share/datasets")
TIMEOUT = 20  # seconds without an answer until a download counts as broken off
NOT_TO_BE_HAD = (OSError, RuntimeError, http.client.HTTPException)  # how torchvision's downloads fail
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
    """Images, or their latents, in memory with their labels: a map-style data set, `image, label = data[3]`."""

    pixels: Tensor  # uint8 (N, C, H, W), 0 to 255; latents float32
    labels: Tensor  # int64 (N,), of classes or of prompts; all 0 where there are neither
    classes: tuple[str, ...] = ()  # the name of each; of prompts, all that occur
    source: str = ""  # where the images came from, in a few words
    bounded: bool = True  # in [-1, 1]; latents, which are floats, are not

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index) -> tuple[Tensor, Tensor]:
        """Images (float32, in [-1, 1] but for latents) and labels at an index, a slice or a tensor of indices."""
        return to_float(self.pixels[index]), self.labels[index]

    @property
    def images(self) -> Tensor:
        """All images as float32 (N, C, H, W) in [-1, 1]: four times the memory of `pixels`."""
        return to_float(self.pixels)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [-1, 1]; floats, in [-1, 1] already, to float32 or float64; ValueError for others."""
    if pixels.dtype == torch.uint8:
        return pixels.float() / 127.5 - 1
    if not pixels.is_floating_point():
        raise ValueError(f"images must be uint8 0..255 or floats in [-1, 1], got {pixels.dtype}; convert them")
    return pixels if pixels.dtype == torch.float64 else pixels.float()


def load_images(
    source: str | Path = "fashion-mnist", split: str = "train", size: int | None = None, channels: int | None = None
) -> ImageSet:
    """Images and labels to train on; a printed line says where they were found.

    source: "fashion-mnist" (28x28 grey, 10 classes), "cifar10" (32x32 colour, 10 classes), scikit-learn's "digits"
        (8x8 grey) or a folder of pictures; its sub-folders, where every picture lies in one, are the classes.
    split: "train" or "test"; a folder has only "train".
    size: height and width to resize to; a folder's pictures, cut to their middle square, become 64x64 if None.
    channels: 1 for grey, 3 for colour; if None, as the source has them (a folder: 3).
    Raises ValueError: other arguments, or a folder without pictures. OSError: CIFAR-10 is not to be had.
    """
    size = check_numbers(size=size)["size"]
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels}")
    if source not in SOURCES and not Path(source).is_dir():
        raise ValueError(f"unknown data set {str(source)!r}; choose one of {', '.join(SOURCES)}, or an existing folder")
    splits = ("train", "test") if source in SOURCES else ("train",)
    if split not in splits:
        raise ValueError(f"{source} has no split {split!r}, only {', '.join(splits)}")
    if source not in SOURCES:
        return ImageSet(*read_folder(Path(source), size or 64, channels or 3))
    found = SOURCES[source](split)
    say(f"{found.source}: {len(found):,} images")
    if size:
        found.pixels = functional.resize(found.pixels, [size, size], antialias=True)
    if channels:
        convert = functional.rgb_to_grayscale if channels == 1 else functional.grayscale_to_rgb
        found.pixels = convert(found.pixels)
    return found


def save_grid(images: Tensor, path: str | Path, columns: int | None = None, scale: int = 1) -> Path:
    """Write images (N, C, H, W), C = 1 or 3, as one PNG grid: floats, clamped to [-1, 1], or uint8 pixels.

    columns: images in a row; about a square if None. scale: pixels of the file for each one of an image.
    Raises ValueError: a value is not a number.
    """
    if images.isnan().any():
        raise ValueError(f"{int(images.isnan().sum())} of {images.numel()} image values are not a number (NaN)")
    large = to_float(images).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    grid = dict(nrow=columns or math.ceil(math.sqrt(len(images))), padding=2 * scale, pad_value=1.0)
    grid |= dict(normalize=True, value_range=(-1, 1), format="png")
    write_atomically(path, lambda part: save_image(large, part, **grid))
    return Path(path)


def _fashion_mnist(split: str) -> ImageSet:
    def read(folder: Path, origin: str, check: bool = True) -> ImageSet:
        pixels, labels = (read_idx(folder / name, sha if check else None) for name, sha in FASHION_FILES[split].items())
        source = f"Fashion-MNIST {split}, {origin}"
        return ImageSet(pixels[:, None], labels.long(), tuple(datasets.FashionMNIST.classes), source)

    files, folders = FASHION_FILES[split], ("fashion-mnist", "FashionMNIST/raw", "")
    try:
        return _first_whole(read, files, folders, datasets.FashionMNIST, "FashionMNIST/raw/*.gz")
    except NOT_TO_BE_HAD as error:
        reason = " ".join(str(error).split())
        small = f"the small set of the repository: no full copy here and none to be had ({reason})"
        return read(ROOT / "data" / "fashion-mnist-small", small, check=False)


def _cifar10(split: str) -> ImageSet:
    """Krizhevsky 2009."""

    def read(folder: Path, origin: str) -> ImageSet:
        # torchvision checks each file's MD5 before it reads it, in a folder within the one given: here that one itself.
        found = type("Here", (datasets.CIFAR10,), {"base_folder": ""})(folder, train=split == "train")
        pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
        return ImageSet(pixels, torch.tensor(found.targets), tuple(found.classes), f"CIFAR-10 {split}, {origin}")

    files, folder = [datasets.CIFAR10.meta["filename"]], datasets.CIFAR10.base_folder
    try:
        return _first_whole(read, files, (folder, ""), datasets.CIFAR10, f"{folder}/*")
    except NOT_TO_BE_HAD as error:
        advice = f"unpack {datasets.CIFAR10.filename} from https://www.cs.toronto.edu/~kriz/cifar.html in data/cache"
        raise OSError(f"CIFAR-10 is not on this machine and cannot be downloaded ({error}); {advice}") from error


def _digits(split: str) -> ImageSet:
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    data, part = load_digits(), slice(0, 1500) if split == "train" else slice(1500, None)
    pixels = torch.from_numpy((data.images[part] * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target[part]).long()
    return ImageSet(pixels, labels, tuple("0123456789"), f"scikit-learn's digits {split}")


SOURCES = {"fashion-mnist": _fashion_mnist, "cifar10": _cifar10, "digits": _digits}


def _first_whole(read: Callable, files: Iterable[str], folders: tuple, dataset: type, pattern: str) -> ImageSet:
    """What `read` makes of the first whole copy on this machine, or else of the files at their public source."""
    cache = ROOT / "data" / "cache" / folders[0]
    homes = {"from the cache": cache, "from COURSE_DATA": None, "from this machine's package": DEBIAN / folders[0]}
    for origin, home in homes.items():
        folder = home or find_copy(files, *folders)
        if folder and all((folder / file).exists() for file in files):
            try:
                return read(folder, origin)
            except NOT_TO_BE_HAD as error:
                warnings.warn(f"the copy in {folder} is passed over, delete it: {error}", stacklevel=4)
    _download(dataset, pattern, cache)
    return read(cache, "downloaded")


def _download(dataset: type, pattern: str, folder: Path) -> None:
    """All files, checked by torchvision against its MD5 sums; what breaks off or stalls leaves nothing behind."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as finally_, tempfile.TemporaryDirectory(dir=folder.parent) as part:
        finally_.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        finally_.callback(setattr, datasets.utils, "tqdm", datasets.utils.tqdm)
        socket.setdefaulttimeout(TIMEOUT)
        datasets.utils.tqdm = partial(tqdm, disable=None, leave=False)
        with contextlib.redirect_stdout(io.StringIO()):  # some versions print a line a file
            dataset(part, download=True)
        for path in Path(part).glob(pattern):
            os.replace(path, folder / path.name)


def read_idx(path: Path, sha256: str | None = None) -> Tensor:
    """A gzipped IDX file as a uint8 tensor. Raises OSError where the SHA-256 of the unpacked bytes is another one."""
    with contextlib.suppress(OSError, EOFError, zlib.error):
        data = gzip.decompress(path.read_bytes())
        if sha256 in (None, hashlib.sha256(data).hexdigest()):
            shape = np.frombuffer(data, ">i4", count=data[3], offset=4)  # one number for each of data[3] dimensions
            return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy())
    raise OSError(f"{path} is damaged: it cannot be unpacked, or its SHA-256 is another")

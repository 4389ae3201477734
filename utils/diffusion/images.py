"""Images to train on: `load_images` finds them, keeps them as uint8, and hands them out in [-1, 1].

Fashion-MNIST is looked for in this order: the course's cache (data/cache), a copy the machine has (COURSE_DATA,
Debian's package dataset-fashion-mnist), the public source, and at last the small set that the repository carries. One
printed line says which it was.
"""

import contextlib
import functools
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional
from torchvision.utils import save_image
from tqdm.auto import tqdm

from utils.files import find_copy, say, write_atomically

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = Path("/usr/share/datasets")
SOURCES = ("fashion-mnist", "cifar10", "digits")
SPLITS = ("train", "test")
SUFFIXES = (*IMG_EXTENSIONS, ".gif", ".jfif", ".jp2", ".avif", ".heic")
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
    """uint8 0..255 to float32 in [-1, 1]; floats are there already and become float32, unless they are float64.

    Raises ValueError for other whole numbers.
    """
    if pixels.dtype == torch.uint8:
        return pixels.float() / 127.5 - 1
    if not pixels.is_floating_point():
        raise ValueError(f"images must be uint8 0..255 or floats in [-1, 1], got {pixels.dtype}; convert them")
    return pixels if pixels.dtype == torch.float64 else pixels.float()


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
    Raises ValueError: an unknown source or split, another size or channels, or a folder without pictures. OSError:
    CIFAR-10 is not on this machine and cannot be downloaded.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    if source not in SOURCES:
        if Path(source).is_dir():
            if split != "train":
                raise ValueError(f"a folder of pictures has no split {split!r}, only 'train'")
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
    """Write images (N, C, H, W), C = 1 or 3, as one PNG grid: floats, clamped to [-1, 1], or uint8 pixels.

    Args:
        columns: images in a row; about a square if None.
        scale: pixels of the file for each pixel of an image, a whole number.
    Raises ValueError: a value is not a number.
    """
    if images.isnan().any():
        raise ValueError(f"{int(images.isnan().sum())} of {images.numel()} image values are not a number (NaN)")
    large = to_float(images).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    grid = dict(nrow=columns or math.ceil(math.sqrt(len(images))), padding=2 * scale, pad_value=1.0)
    scaled = dict(normalize=True, value_range=(-1, 1))
    write_atomically(path, lambda part: save_image(large, part, format="png", **grid, **scaled))
    return Path(path)


# -- data sets with a name -------------------------------------------------------------------------


def _fashion_mnist(split: str) -> ImageSet:
    read, folders = functools.partial(_read_fashion, split), ("fashion-mnist", "FashionMNIST/raw", "")
    try:
        return _first_whole(read, FASHION_FILES[split], folders, datasets.FashionMNIST, "FashionMNIST/raw/*.gz")
    except NOT_TO_BE_HAD as error:
        reason = " ".join(str(error).split())
        small = f"the small set of the repository: no full copy here and none to be had ({reason})"
        return read(ROOT / "data" / "fashion-mnist-small", small, check=False)


def _first_whole(read: Callable, files: Iterable[str], folders: tuple, dataset: type, pattern: str) -> ImageSet:
    """What `read` makes of the first whole copy on this machine, or else of the files downloaded just now."""
    cache = ROOT / "data" / "cache" / folders[0]
    homes = {"from the cache": cache, "from COURSE_DATA": None, "from this machine's package": DEBIAN / folders[0]}
    for origin, home in homes.items():
        folder = home or find_copy(files, *folders)
        if folder and all((folder / file).exists() for file in files):
            try:
                return read(folder, origin)
            except (OSError, RuntimeError) as error:
                warnings.warn(f"the copy in {folder} is passed over, delete it: {error}", stacklevel=4)
    _download(dataset, pattern, cache)
    return read(cache, "downloaded")


def _read_fashion(split: str, folder: Path, origin: str, check: bool = True) -> ImageSet:
    pixels, labels = (read_idx(folder / name, sha if check else None) for name, sha in FASHION_FILES[split].items())
    source = f"Fashion-MNIST {split}, {origin}"
    say(f"{source}: {len(pixels):,} images")
    return ImageSet(pixels[:, None], labels.long(), tuple(datasets.FashionMNIST.classes), source)


def read_idx(path: Path, sha256: str | None = None) -> Tensor:
    """A gzipped IDX file as a uint8 tensor. Raises OSError where the SHA-256 of the unpacked bytes is another one."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise OSError(f"{path} is damaged ({error})") from error
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise OSError(f"{path} is damaged (its SHA-256 is wrong)")
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)  # one number for each of data[3] dimensions
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy())


def _download(dataset: type, pattern: str, folder: Path) -> None:
    """All files, checked by torchvision against its MD5 sums; what breaks off leaves nothing behind.

    It gives up after TIMEOUT without an answer, and prints nothing but the course's kind of progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = socket.getdefaulttimeout(), datasets.utils.tqdm
    socket.setdefaulttimeout(TIMEOUT)
    datasets.utils.tqdm = functools.partial(tqdm, disable=None, leave=False)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent) as part, contextlib.redirect_stdout(io.StringIO()):
            dataset(part, download=True)
            for path in Path(part).glob(pattern):
                os.replace(path, folder / path.name)
    finally:
        socket.setdefaulttimeout(before[0])
        datasets.utils.tqdm = before[1]


def _cifar10(split: str) -> ImageSet:
    """Krizhevsky 2009."""
    read, folder = functools.partial(_read_cifar10, split), datasets.CIFAR10.base_folder
    try:
        files = [datasets.CIFAR10.meta["filename"]]
        return _first_whole(read, files, (folder, ""), datasets.CIFAR10, f"{folder}/*")
    except NOT_TO_BE_HAD as error:
        advice = f"unpack {datasets.CIFAR10.filename} from https://www.cs.toronto.edu/~kriz/cifar.html in data/cache"
        raise OSError(f"CIFAR-10 is not on this machine and cannot be downloaded ({error}); {advice}") from error


def _read_cifar10(split: str, folder: Path, origin: str) -> ImageSet:
    # torchvision checks each file's MD5 before it reads it, in a folder within the one given: here that one itself.
    found = type("Here", (datasets.CIFAR10,), {"base_folder": ""})(folder, train=split == "train")
    source = f"CIFAR-10 {split}, {origin}"
    say(f"{source}: {len(found.data):,} images")
    pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(pixels, torch.tensor(found.targets), tuple(found.classes), source)


def _digits(split: str) -> ImageSet:
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    data = load_digits()
    pixels = torch.from_numpy((data.images * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target).long()
    part = slice(0, 1500) if split == "train" else slice(1500, None)
    return ImageSet(pixels[part], labels[part], tuple("0123456789"), f"scikit-learn's digits {split}")


# -- pictures of one's own -------------------------------------------------------------------------


def _folder(folder: Path, size: int, channels: int) -> ImageSet:
    paths, name = list(_pictures(folder)), folder.resolve().name
    if not paths:
        raise ValueError(f"no pictures in {folder}: looked for {', '.join(SUFFIXES)} there and below")
    images, opened, skipped, transparent = [], [], [], 0
    for path in tqdm(paths, desc="pictures", leave=False, disable=None):
        try:
            picture = _upright(path)
            images.append(_middle_square(picture, size, channels))
            opened.append(path.relative_to(folder).parts)
            transparent += picture.getchannel("A").getextrema()[0] < 255
        except Exception as error:  # a damaged file raises nearly anything, SyntaxError and struct.error among it
            skipped.append((str(path.relative_to(folder)), f"{type(error).__name__}: {error}"))
    if not images:
        first = " with ".join(skipped[0])
        raise ValueError(f"none of the {len(paths)} pictures in {folder} opens; the first is {first}")
    if skipped:
        named = ", ".join(name for name, _ in skipped[:20]) + (", ..." if len(skipped) > 20 else "")
        named += f" (the first with {skipped[0][1]})"
        warnings.warn(f"{len(skipped)} of {len(paths)} pictures do not open and were skipped: {named}", stacklevel=3)
    loose = [parts[0] for parts in opened if len(parts) == 1]
    if 0 < len(loose) < len(opened):
        beside = f"{len(loose)} pictures lie beside the folders of {folder}, {loose[0]} the first"
        warnings.warn(f"{beside}: so there are no classes; move them into a folder to have some", stacklevel=3)
    classes = () if loose else tuple(sorted({parts[0] for parts in opened}))
    labels = torch.tensor([classes.index(parts[0]) if classes else 0 for parts in opened])
    on_white = f", {transparent:,} of them transparent in places, seen on white" if transparent else ""
    say(f"{name}: {len(images):,} pictures of {size}x{size}, {len(classes) or 'no'} classes{on_white}")
    return ImageSet(torch.stack(images), labels, classes, f"the folder {name}")


def _pictures(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The pictures in a folder and below, in order; links are followed, but not back to a folder `above`.

    Without hidden folders and files (.git, .ipynb_checkpoints) and what macOS adds to an archive (__MACOSX, ._name).
    What cannot be looked into, a link to nothing say, is given too: it will not open, and so be named.
    """
    real = folder.resolve()
    try:
        inside = sorted(folder.iterdir()) if real not in above else ()
    except OSError:
        inside = ()
        yield folder
    for path in inside:
        if path.name.startswith((".", "__MACOSX")):
            continue
        if path.is_dir():
            yield from _pictures(path, (*above, real))
        elif (path.suffix.lower() in SUFFIXES and path.is_file()) or not path.exists():
            yield path


def _upright(path: Path) -> Image.Image:
    """The picture in RGBA with 8 bits each, turned as its EXIF orientation says."""
    with Image.open(path) as picture:  # torchvision.io reads neither BMP nor TIFF, and drops an alpha channel
        sixteen = picture.mode.startswith("I;16") or picture.format in ("PNG", "PPM")
        picture = ImageOps.exif_transpose(picture)
    if picture.mode[0] in "IF":
        picture = _eight_bits(picture, sixteen)
    return picture.convert("RGBA")


def _eight_bits(picture: Image.Image, sixteen: bool) -> Image.Image:
    """A grey picture of 16 or 32 bits, which Pillow would cut off at 255.

    `sixteen`: its white is 65,535. Else it is the least of 1, 255 and 65,535 that no value exceeds.
    """
    values = np.asarray(picture).astype(np.float64)
    if not 0 <= values.min() <= values.max() <= 65_535:
        raise ValueError(f"its values reach from {values.min():g} to {values.max():g}, expected 0 to 1, 255 or 65,535")
    white = 65_535 if sixteen else next(white for white in (1, 255, 65_535) if values.max() <= white)
    grey = Image.fromarray((values / white * 255).round().astype(np.uint8))
    if (clear := picture.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _middle_square(picture: Image.Image, size: int, channels: int) -> Tensor:
    """The middle of an RGBA picture as uint8 (C, size, size), on white where it is transparent."""
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = functional.center_crop(picture.convert("L" if channels == 1 else "RGB"), [min(picture.size)])
    return functional.resize(functional.pil_to_tensor(picture), [size, size], antialias=True)

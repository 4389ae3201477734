"""A folder of one's own pictures: found, turned upright, cut to their middle square, and put on white."""

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional
from tqdm.auto import tqdm

from utils.files import say

SUFFIXES = (*IMG_EXTENSIONS, ".gif", ".jfif", ".jp2", ".avif", ".heic")


def read_folder(folder: Path, size: int, channels: int) -> tuple[Tensor, Tensor, tuple[str, ...], str]:
    """The fields of an ImageSet of these pictures; says what it found, and warns of what it passed over."""
    paths, name = _pictures(folder), folder.resolve().name
    if not paths:
        raise ValueError(f"no pictures in {folder}: looked for {', '.join(SUFFIXES)} there and below")
    images, skipped, transparent = {}, {}, 0
    for path in tqdm(paths, desc="pictures", leave=False, disable=None):
        inside = path.relative_to(folder)
        try:
            picture = _upright(path)
            images[inside.parts] = _middle_square(picture, size, channels)
            transparent += picture.getchannel("A").getextrema()[0] < 255
        except Exception as error:  # a damaged file raises nearly anything, SyntaxError and struct.error among it
            skipped[str(inside)] = f"{type(error).__name__}: {error}"
    if skipped:
        named = f"{', '.join([*skipped][:20])} (the first with {next(iter(skipped.values()))})"
        failed = f"{len(skipped)} of {len(paths)} pictures in {folder} do not open: {named}"
        if not images:
            raise ValueError(failed)
        warnings.warn(failed, stacklevel=3)
    loose = [parts[0] for parts in images if len(parts) == 1]
    if 0 < len(loose) < len(images):
        beside = f"{len(loose)} pictures lie beside the folders of {folder}, {loose[0]} the first"
        warnings.warn(f"{beside}: so there are no classes; move them into a folder to have some", stacklevel=3)
    classes = () if loose else tuple(sorted({parts[0] for parts in images}))
    labels = torch.tensor([classes.index(parts[0]) if classes else 0 for parts in images])
    on_white = f", {transparent:,} of them transparent in places, seen on white" if transparent else ""
    say(f"{name}: {len(images):,} pictures of {size}x{size}, {len(classes) or 'no'} classes{on_white}")
    return torch.stack([*images.values()]), labels, classes, f"the folder {name}"


def _pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and below, in order, and what cannot be looked into, such as a link to nothing.

    Links are followed, but not back to a folder above. Hidden files (.git) and those of macOS (__MACOSX) are left out.
    """
    found, hidden = [], (".", "__MACOSX")
    walk = os.walk(folder, onerror=lambda error: found.append(Path(error.filename)), followlinks=True)
    for top, below, files in walk:
        above = {place.resolve() for place in (Path(top), *Path(top).parents)}
        below[:] = [name for name in below if not name.startswith(hidden) and Path(top, name).resolve() not in above]
        for path in (Path(top, name) for name in files if not name.startswith(hidden)):
            if (path.suffix.lower() in SUFFIXES and path.is_file()) or not path.exists():
                found.append(path)
    return sorted(found)


def _upright(path: Path) -> Image.Image:
    """The picture in RGBA with 8 bits each, turned as its EXIF orientation says.

    In grey of 16 or 32 bits, which Pillow would cut off at 255, white is 65,535 in a PNG, a PPM and with 16 bits; else
    the least of 1, 255 and 65,535 that no value exceeds.
    """
    with Image.open(path) as picture:  # torchvision.io reads neither BMP nor TIFF, and drops an alpha channel
        sixteen = picture.mode.startswith("I;16") or picture.format in ("PNG", "PPM")
        picture = ImageOps.exif_transpose(picture)
    if picture.mode[0] in "IF":
        values, hidden = np.asarray(picture).astype(np.float64), picture.info.get("transparency")
        low, high = values.min(), values.max()
        if not 0 <= low <= high <= 65_535:
            raise ValueError(f"its values reach from {low:g} to {high:g}, expected 0 to 1, 255 or 65,535")
        white = 65_535 if sixteen else next(white for white in (1, 255, 65_535) if high <= white)
        picture = Image.fromarray((values / white * 255).round().astype(np.uint8))
        if hidden is not None:
            picture.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return picture.convert("RGBA")


def _middle_square(picture: Image.Image, size: int, channels: int) -> Tensor:
    """The middle of an RGBA picture as uint8 (C, size, size), on white where it is transparent."""
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = functional.center_crop(picture.convert("L" if channels == 1 else "RGB"), [min(picture.size)])
    return functional.resize(functional.pil_to_tensor(picture), [size, size], antialias=True)

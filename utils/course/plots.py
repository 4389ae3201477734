"""The course's figures: one style, image grids, axes and names; `animate` is in player.py."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from IPython.core.pylabtools import print_figure
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from torch import Tensor
from torchvision.utils import make_grid

# Okabe & Ito (2008), "Color universal design": readers with any common colour blindness can tell them apart.
# Their yellow is left out: it is too pale for a line on white.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLE = {
    "figure.figsize": (7.0, 3.2),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "savefig.dpi": "figure",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "image.cmap": "cividis",
    "image.interpolation": "nearest",
}
GAP = 2  # pixels of the images between two neighbours in a grid
ROOM = 8  # pixels between a bar and its name
MAX_WIDTH = 720  # pixels of the figure


def plain_ticks(ax: Axes) -> None:
    """Label a logarithmic y axis at 1, 2 and 5 times the powers of ten, as plain numbers instead of powers."""
    low, high = ax.get_ylim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [k * 10.0**power for power in powers for k in (1, 2, 5) if low <= k * 10.0**power <= high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


def name_bars(ax: Axes, bars: Mapping[str, tuple[float, float, float]]) -> None:
    """Write the name of each error bar above it, or where there is no room below, right or left of it, else above.

    Call it last: the axes' limits and scales must be final. bars: name: (x, lower end, upper end), in the axes' units.
    """
    ax.figure.draw_without_rendering()  # the layout moves the axes when it is first drawn
    ends = {name: ax.transData.transform([(x, low), (x, high)]) for name, (x, low, high) in bars.items()}
    taken = [Bbox(points).padded(ROOM - 1) for points in ends.values()]
    for name, ((x, low), (_, high)) in ends.items():
        above, middle = ((x, high + ROOM), "center", "bottom"), (low + high) / 2
        below = ((x, low - ROOM), "center", "top")
        beside = ((x + ROOM, middle), "left", "center"), ((x - ROOM, middle), "right", "center")
        text = ax.text(0, 0, name, fontsize=8, transform=None, in_layout=False)  # in pixels, to find a place
        for place, across, along in (above, below, *beside, above):
            text.set(position=place, ha=across, va=along)
            box = text.get_window_extent()
            if ax.bbox.fully_containsx(box.x0) and ax.bbox.fully_containsx(box.x1) and not box.count_overlaps(taken):
                break
        taken.append(box)
        text.set(position=ax.transData.inverted().transform(place), transform=ax.transData)


def as_images(images: Any) -> Tensor:
    """Images (N, C, H, W) with C = 1 or 3, or (N, H, W), as a float32 tensor (N, C, H, W) on the CPU.

    Raises ValueError: no images, another shape, or a value that is not a number.
    """
    images = torch.as_tensor(images).detach().float().cpu()
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.numel() == 0:
        shape = tuple(images.shape)
        raise ValueError(f"images have shape {shape}; expected (N, C, H, W) with C = 1 or 3, or (N, H, W)")
    if bad := int(images.isnan().sum()):
        raise ValueError(f"{bad} of {images.numel()} image values are not a number (NaN); look for a division by 0")
    return images


def picture_of(images: Tensor, columns: int, gap: int) -> np.ndarray:
    """Images (N, C, H, W), clamped to [-1, 1], as one RGB picture, uint8 (H', W', 3); `gap` white pixels between."""
    grid = make_grid(images, columns, gap, normalize=True, value_range=(-1, 1), pad_value=1.0)
    if len(images) > 1:  # make_grid frames several images, and leaves a single one without a frame
        grid = grid[:, gap:-gap, gap:-gap]
    return grid.mul(255).round().byte().permute(1, 2, 0).numpy()


class ImageFigure(Figure):
    """A figure that a notebook shows once, even when it is both open and the last value of its cell."""

    def _ipython_display_(self) -> None:
        plt.close(self)  # so that it is not drawn a second time at the end of the cell
        png = print_figure(self, bbox_inches=None, base64=True)  # "tight" could move the images by part of a pixel
        display({"image/png": png, "text/plain": repr(self)}, raw=True)


def show_images(
    images: Any,
    titles: list[str] | None = None,
    columns: int | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    scale: int | None = None,
) -> Figure:
    """Draw images in a grid; each of their pixels covers scale x scale pixels of the figure.

    images: (N, C, H, W) with C = 1 or 3, or (N, H, W); values in [-1, 1], others are clamped.
    titles: a short text above each image.
    columns: images in a row; 8 or fewer if None.
    ax: draw into these axes (their size is theirs, `scale` is ignored); else into a new figure.
    title: above the whole grid; state what the reader should see.
    scale: whole number; the largest up to 8 that keeps the figure 720 pixels wide if None.
    Raises ValueError: another shape, a value that is not a number, or as many titles as there are not images.
    """
    images = as_images(images)
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images; give one title to each image")
    columns = columns or min(len(images), 8)
    height, width = images.shape[2:]
    room = height // 4 if titles else 0  # for a title between two rows; above the first row there is room anyway
    grid = picture_of(torch.nn.functional.pad(images, (0, 0, room, 0), value=1), columns, GAP)[room:]
    if ax is None:
        scale = scale or max(1, min(8, MAX_WIDTH // grid.shape[1]))
        lines = (title or "").splitlines()
        above = 21 * len(lines) + 14 * bool(titles)  # pixels for what stands over the first row
        ax = _axes_of_size(grid.shape[1] * scale, grid.shape[0] * scale, above, max(map(len, lines), default=0))
    ax.imshow(grid, interpolation="nearest", aspect="equal")
    ax.set_axis_off()
    for k, text in enumerate(titles or []):
        row, column = divmod(k, columns)
        x, y = column * (width + GAP) + width / 2, row * (height + room + GAP) - 1
        ax.text(x, y, text, ha="center", va="bottom", fontsize=8)
    if title:
        ax.set_title(title, pad=16 if titles else 6)
    return ax.figure


def _axes_of_size(width: int, height: int, above: int, letters: int) -> Axes:
    """Axes of exactly width x height pixels in a new figure with `above` pixels over them, and as wide as the title."""
    dpi, edge = plt.rcParams["figure.dpi"], 10
    full = (max(width, 8 * letters) + 2 * edge, height + above + 2 * edge)
    figure = plt.figure(figsize=(full[0] / dpi, full[1] / dpi), FigureClass=ImageFigure, layout="none")
    return figure.add_axes((edge / full[0], edge / full[1], width / full[0], height / full[1]))


def denoising_strip(states: list[Any], titles: list[str], **options: Any) -> Figure:
    """States of a sampling run, each a column under its title, from first to last; row n of the figure is image n.

    states: list of (N, C, H, W) in [-1, 1]. options: as for `show_images`.
    """
    images = torch.stack([as_images(state) for state in states], dim=1).flatten(0, 1)  # row after row
    titles = titles + [""] * (len(images) - len(states))
    return show_images(images, titles=titles, columns=len(states), **options)

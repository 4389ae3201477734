"""The course's figures: one style, image grids, and saving them; `animate` is in player.py."""

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from utils.course.player import animate
from utils.course.tiles import tile, to_uint8
from utils.files import write_atomically

__all__ = [
    "COLOURS", "animate", "denoising_strip", "name_bars", "plain_ticks", "save_grid", "show_images", "use_course_style",
]  # fmt: skip

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


def use_course_style() -> None:
    """Give every later matplotlib figure the course's style."""
    plt.rcParams.update(STYLE)


def plain_ticks(ax: Axes) -> None:
    """Label a logarithmic y axis at 1, 2 and 5 times the powers of ten, as plain numbers instead of powers."""
    low, high = ax.get_ylim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [k * 10.0**power for power in powers for k in (1, 2, 5) if low <= k * 10.0**power <= high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


def name_bars(ax: Axes, bars: Mapping[str, tuple[float, float, float]], fontsize: float = 8) -> None:
    """Write the name of each error bar above it, or where there is no room below, right or left of it.

    Call it last: the axes' limits and scales must be final. A name for which there is no room at all stands above.

    Args:
        bars: name: (x, lower end, upper end), in the units of the axes.
    """
    ax.figure.draw_without_rendering()  # the layout moves the axes when it is first drawn
    ends = {name: ax.transData.transform([(x, low), (x, high)]) for name, (x, low, high) in bars.items()}
    taken = [Bbox(points).padded(ROOM - 1) for points in ends.values()]
    for name, ((x, low), (_, high)) in ends.items():
        above, middle = ((x, high + ROOM), "center", "bottom"), (low + high) / 2
        below = ((x, low - ROOM), "center", "top")
        beside = ((x + ROOM, middle), "left", "center"), ((x - ROOM, middle), "right", "center")
        text = ax.text(0, 0, name, fontsize=fontsize, transform=None, in_layout=False)  # in pixels, to find a place
        for place, across, along in (above, below, *beside, above):
            text.set(position=place, ha=across, va=along)
            box = text.get_window_extent()
            if ax.bbox.fully_containsx(box.x0) and ax.bbox.fully_containsx(box.x1) and not box.count_overlaps(taken):
                break
        taken.append(box)
        text.set(position=ax.transData.inverted().transform(place), transform=ax.transData)


class ImageFigure(Figure):
    """A figure that a notebook shows once, even when it is both open and the last value of its cell."""

    def _ipython_display_(self) -> None:
        # A figure that is closed is not drawn a second time at the end of the cell.
        plt.close(self)
        buffer = io.BytesIO()
        # Not cut to a "tight" box: that could move the images by part of a pixel.
        self.savefig(buffer, format="png", bbox_inches=None)
        png = base64.b64encode(buffer.getvalue()).decode()
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

    Args:
        images: (N, C, H, W) with C = 1 or 3, or (N, H, W); values in [-1, 1], others are clamped.
        titles: a short text above each image.
        columns: images in a row; 8 or fewer if None.
        ax: draw into these axes (their size is theirs, `scale` is ignored); else into a new figure.
        title: above the whole grid; state what the reader should see.
        scale: whole number; the largest up to 8 that keeps the figure 720 pixels wide if None.

    Raises:
        ValueError: another shape, a value that is not a number, or as many titles as there are not images.
    """
    pictures = to_uint8(images)
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(f"{len(titles)} titles for {len(pictures)} images; give one title to each image")
    columns = columns or min(len(pictures), 8)
    # A title needs room between two rows.
    row_gap = GAP + pictures.shape[1] // 4 if titles else GAP
    grid = tile(pictures, columns, GAP, row_gap)
    height, width = grid.shape[:2]
    if ax is None:
        scale = scale or max(1, min(8, MAX_WIDTH // width))
        ax = _axes_of_size(width * scale, height * scale, room=title or "")
    ax.imshow(grid, interpolation="nearest", aspect="equal")
    ax.set_axis_off()
    for k, text in enumerate(titles or []):
        x = k % columns * (pictures.shape[2] + GAP) + pictures.shape[2] / 2
        y = k // columns * (pictures.shape[1] + row_gap) - 1
        ax.text(x, y, text, ha="center", va="bottom", fontsize=8)
    if title:
        ax.set_title(title, pad=16 if titles else 6)
    return ax.figure


def _axes_of_size(width: int, height: int, room: str) -> Axes:
    """Axes of exactly width x height pixels in a new figure, with room for that title above them."""
    dpi = plt.rcParams["figure.dpi"]
    left, bottom, top = 10, 10, 45
    letters = max((len(line) for line in room.splitlines()), default=0)
    full = (max(width, 8 * letters) + 2 * left, height + bottom + top)
    figure = plt.figure(figsize=(full[0] / dpi, full[1] / dpi), FigureClass=ImageFigure, layout="none")
    return figure.add_axes((left / full[0], bottom / full[1], width / full[0], height / full[1]))


def denoising_strip(states: list[Any], count: int = 8, titles: list[str] | None = None, **options: Any) -> Figure:
    """Some of the states of a sampling run, each a column, from first to last.

    Args:
        states: list of (N, C, H, W) in [-1, 1], one per step; row n of the figure is image n.
        count: columns, evenly spaced over the run; the first and the last state are among them.
        titles: a text for each state, shown above its column.
        options: as for `show_images`.
    """
    chosen = np.unique(np.linspace(0, len(states) - 1, min(count, len(states))).round().astype(int))
    columns = [to_uint8(states[k]) for k in chosen]
    # (columns, N, H, W, 3) to row after row, then back to [-1, 1] in (N, C, H, W).
    pictures = np.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:])
    images = pictures.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    if titles is not None:
        titles = [titles[k] for k in chosen] + [""] * (len(images) - len(chosen))
    return show_images(images, titles=titles, columns=len(chosen), **options)


def save_grid(images: Any, path: str | Path, columns: int | None = None, scale: int = 1) -> Path:
    """Write images as one PNG grid, clamped to [-1, 1]; the file appears whole or not at all.

    Args:
        images: (N, C, H, W) with C = 1 or 3, or (N, H, W), in [-1, 1].
        path: the file; its folder is made if need be.
        columns: images in a row; about a square if None.
        scale: pixels of the file for each pixel of an image, a whole number.
    """
    pictures = to_uint8(images)
    grid = tile(pictures, columns or math.ceil(math.sqrt(len(pictures))), GAP, GAP)
    grid = grid.repeat(scale, axis=0).repeat(scale, axis=1)
    path = Path(path)
    write_atomically(path, lambda part: Image.fromarray(grid).save(part, format="PNG"))
    return path

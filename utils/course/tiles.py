"""From model values to pictures: [-1, 1] to uint8, and many pictures to one grid."""

from typing import Any

import numpy as np


def to_uint8(images: Any) -> np.ndarray:
    """Images in [-1, 1] as uint8 RGB (N, H, W, 3). Values outside are clamped, so none wraps around.

    Args:
        images: tensor or array, (N, C, H, W) with C = 1 or 3, or (N, H, W).

    Raises:
        ValueError: no images, another shape, or a value that is not a number.
    """
    if hasattr(images, "detach"):
        images = images.detach().float().cpu().numpy()
    images = np.asarray(images, dtype=np.float32)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.size == 0:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with C = 1 or 3, or (N, H, W)"
        )
    if np.isnan(images).any():
        raise ValueError(
            f"{np.isnan(images).sum()} of {images.size} image values are not a number (NaN); "
            "look for the step that made them, for example a division by 0"
        )
    levels = ((images.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
    return np.broadcast_to(levels, (len(levels), 3, *levels.shape[2:])).transpose(0, 2, 3, 1)


def tile(pictures: np.ndarray, columns: int, gap: int, row_gap: int) -> np.ndarray:
    """(N, H, W, 3) as one white picture: `columns` in a row `gap` pixels apart, rows `row_gap` apart."""
    count, height, width, _ = pictures.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (rows * (height + row_gap) - row_gap, columns * (width + gap) - gap, 3)
    grid = np.full(size, 255, dtype=np.uint8)
    for k, picture in enumerate(pictures):
        y, x = k // columns * (height + row_gap), k % columns * (width + gap)
        grid[y : y + height, x : x + width] = picture
    return grid

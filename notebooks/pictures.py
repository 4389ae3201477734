"""The picture at the head of a notebook: what its cell tagged `picture` drew, made small.

`build.py` writes data/pictures/NN.png with every notebook that it writes, so the two cannot disagree. The title cell
shows it as `![what it shows](../data/pictures/NN.png)`: JupyterLab and GitHub follow that path, and Colab does for a
notebook opened from GitHub, as its badge opens it.
"""

import base64
import io
from pathlib import Path

from nbformat import NotebookNode
from PIL import Image

WIDTH, COLOURS = 1100, 64  # as wide as a page of the course; letters and lines stay under 80 kB


def picture(notebook: NotebookNode) -> Image.Image | None:
    """What the cell tagged `picture` drew last, at most WIDTH pixels wide and high, of COLOURS colours; else None.

    Raises:
        ValueError: several cells are tagged, or the one that is has no PNG among its outputs.
    """
    cells = [cell for cell in notebook.cells if "picture" in cell.metadata.get("tags", ())]
    if not cells:
        return None
    if len(cells) > 1:
        raise ValueError(f"cells {[cell.id for cell in cells]} are tagged 'picture'; expected one: untag the others")
    outputs = [output.data for output in cells[0].get("outputs", ()) if "image/png" in output.get("data", ())]
    if not outputs:
        raise ValueError(f"cell {cells[0].id} is tagged 'picture' and drew none; expected a PNG among its outputs")
    drawn = Image.open(io.BytesIO(base64.b64decode(outputs[-1]["image/png"])))
    drawn.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    return on_white(drawn).quantize(COLOURS, dither=Image.Dither.NONE)


def on_white(drawn: Image.Image) -> Image.Image:
    """Without transparency: a page may be dark."""
    drawn = drawn.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")


def save_picture(notebook: NotebookNode, path: Path) -> None:
    """Write `picture(notebook)` as a PNG, if there is one; see there for what it raises."""
    small = picture(notebook)
    if small is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        small.save(path, optimize=True)

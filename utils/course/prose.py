"""Edited prose without a new run: allowed where every code cell is what it was when the outputs were made.

The set-up cell may have changed, as under `make set-repo`: it only finds the course, and has tests of its own.
"""

from pathlib import Path

import nbformat
from nbformat import NotebookNode

from utils.course.convert import convert, source_sha256


def refresh_prose(source: Path, built: Path) -> NotebookNode:
    """The notebook of `source` with the outputs, the times and the profile of `built`.

    Raises:
        ValueError: `built` is missing, or a code cell has changed, so that the notebook has to be executed.
    """
    if not built.exists():
        raise ValueError(f"{built.name} is missing; build it first")
    old, new = nbformat.read(built, as_version=4), convert(source)
    old_code, new_code = ([cell for cell in book.cells if cell.cell_type == "code"] for book in (old, new))
    if _lesson(old_code) != _lesson(new_code):
        raise ValueError(f"code in src/{source.name} changed since {built.name} was run; build it without --prose")
    for was, now in zip(old_code, new_code):
        now.outputs, now.execution_count = was.outputs, was.execution_count
    new.metadata.course = {**old.metadata.course, "source_sha256": source_sha256(source)}
    return new


def _lesson(cells: list[NotebookNode]) -> list[str]:
    """What is executed, without what the set-up cell says; its place counts."""
    return ["set-up" if "setup" in cell.metadata.get("tags", ()) else cell.source for cell in cells]

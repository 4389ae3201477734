"""A notebook's source (jupytext, py:percent) as a notebook, and the outputs of a run made fit to keep."""

import hashlib
import re
from pathlib import Path
from typing import Any

import jupytext
from nbformat import NotebookNode

WIDGET_TYPE = "application/vnd.jupyter.widget-view+json"
WIDGET_TEXT = "[A control appears here when the cell is run.]"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PROGRESS_BAR = re.compile(r"\d+%\|.*\[.*\]|\d+\S* \[\d\d:\d\d")  # tqdm's, with and without a total


def source_sha256(path: Path) -> str:
    """SHA-256 of a source's text with \\n line ends, so that it is the same on every system."""
    return hashlib.sha256(path.read_text(encoding="utf-8").encode()).hexdigest()


def convert(source: Path) -> NotebookNode:
    """The notebook of one source, not executed, with cell ids made from its number and the cells' places."""
    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    number = source.name[:2]
    for k, cell in enumerate(notebook.cells):
        cell.id = f"nb{number}-{k:03d}"
        cell.metadata = {name: value for name, value in cell.metadata.items() if name == "tags"}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = NotebookNode(
        accelerator="GPU",
        colab={"gpuType": "T4", "provenance": []},
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        # No version: a build under another Python would change every file.
        language_info={"name": "python"},
    )
    return notebook


def clean(notebook: NotebookNode) -> None:
    """Remove from the outputs what differs between runs or shows only where the kernel runs. In place."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            # Merged before too: a line end may have come as a piece of its own, and alone it would look empty.
            outputs = _merge_streams(cell.outputs)
            cell.outputs = _merge_streams([kept for output in outputs if (kept := _clean_output(output))])


def _clean_output(output: NotebookNode) -> NotebookNode | None:
    """The output without progress bars, terminal colours and live controls; None if nothing is left."""
    if output.output_type == "stream":
        output.text = clean_text(output.text)
        return output if output.text.strip() else None
    data = output.get("data", {})
    if WIDGET_TYPE in data:
        if PROGRESS_BAR.search(_text(data.get("text/plain", ""))):
            return None
        output.data = NotebookNode({"text/plain": WIDGET_TEXT})
    return output


def clean_text(text: str) -> str:
    """Printed text as a terminal would leave it: after a carriage return the line begins anew."""
    lines = ANSI.sub("", _text(text)).replace("\r\n", "\n").split("\n")
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines]
    return "\n".join(line for line in lines if not PROGRESS_BAR.search(line))


def _merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring pieces of the same stream as one: where they were cut is a matter of chance."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last is not None and output.output_type == "stream" == last.output_type and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "".join(value)

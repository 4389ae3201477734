"""A notebook's source (jupytext, py:percent) as a notebook, and the outputs of a run made fit to keep."""

import hashlib
import re
from pathlib import Path

import jupytext
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{slug}/blob/main/notebooks/{stem}.ipynb)"
)
# What a source's set-up cell begins with once it is a notebook. Its own lines come last: `course = start(seed=0)`.
SETUP = """\
# Set-up: find the course in this folder or above it; elsewhere (on Colab, say) fetch it.
import sys
from pathlib import Path

here, url = Path.cwd(), "ADDRESS"
root = next((p for p in [here, *here.parents] if (p / "utils" / "course").is_dir()), None)
if root is None:
    root = here / "diffusion-ner-course"
    if not (root / "utils").is_dir():
        !git clone --quiet --depth 1 {url} "{root}"
        assert (root / "utils").is_dir(), f"git could not fetch {url}: see above, run again"
    %pip install --quiet PACKAGES
sys.path.insert(0, str(root))
import utils
found = Path(utils.__file__ or utils.__path__[0])
assert found.parent == root / "utils", f"rename {found}: it hides the course's utils"
"""
# What the notebooks need and a machine with PyTorch and Jupyter may lack. Never torch or numpy: other versions than
# Colab's own would break its GPU set-up.
DIFFUSION = "accelerate safetensors diffusers"
TEXT_TO_IMAGE = f"{DIFFUSION} transformers"
NER = "python-crfsuite snowballstemmer spacy transformers"
WIDGET_TYPE = "application/vnd.jupyter.widget-view+json"
WIDGET_TEXT = "[A control appears here when the cell is run.]"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PROGRESS_BAR = re.compile(r"\d+%\|.*\[.*\]|\d+\S* \[\d\d:\d\d")  # tqdm's, with and without a total


def source_sha256(path: Path) -> str:
    """SHA-256 of a source's text with \\n line ends, so that it is the same on every system."""
    return hashlib.sha256(path.read_text(encoding="utf-8").encode()).hexdigest()


def convert(source: Path) -> NotebookNode:
    """The notebook of one source, not executed, with badge, set-up cell, and ids made from the cells' places."""
    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    number, url = source.name[:2], repository(source.parents[2])
    badge = BADGE.format(slug=url.removeprefix("https://github.com/"), stem=source.stem)
    for k, cell in enumerate(notebook.cells):
        cell.id = f"nb{number}-{k:03d}"
        cell.metadata = {name: value for name, value in cell.metadata.items() if name == "tags"}
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("{{badge}}", badge)
        elif "setup" in cell.metadata.get("tags", []):
            cell.source = setup_cell(number, url) + cell.source
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = NotebookNode(
        accelerator="GPU",
        colab={"gpuType": "T4", "provenance": []},
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        # No version: a build under another Python would change every file.
        language_info={"name": "python"},
    )
    return notebook


def setup_cell(number: str, url: str) -> str:
    """What the set-up cell of that notebook begins with; the same in all notebooks of a track."""
    packages = DIFFUSION if number < "09" else TEXT_TO_IMAGE if number == "15" else NER
    return SETUP.replace("ADDRESS", url).replace("PACKAGES", packages)


def repository(root: Path = ROOT) -> str:
    """The course's public address, as [project.urls] in pyproject.toml has it. Raises ValueError: it has none."""
    # Python 3.10 has no tomllib; one line is all that is read.
    found = re.search(r'^Repository = "(.+)"', (root / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    if found is None:
        wanted = 'under [project.urls], Repository = "https://github.com/<owner>/<repository>"'
        raise ValueError(f"{root / 'pyproject.toml'} has no address of the course; expected, {wanted}")
    return found.group(1)


def clean(notebook: NotebookNode) -> None:
    """Remove from the outputs what differs between runs or shows only where the kernel runs. In place."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            # Merged before too: a line end may have come as a piece of its own, and alone it would look empty.
            outputs = merge_streams(cell.outputs)
            cell.outputs = merge_streams([kept for output in outputs if (kept := clean_output(output))])


def clean_output(output: NotebookNode) -> NotebookNode | None:
    """The output without progress bars, terminal colours and live controls; None if nothing is left."""
    if output.output_type == "stream":
        output.text = clean_text(output.text)
        return output if output.text.strip() else None
    data = output.get("data", {})
    if WIDGET_TYPE in data:
        if PROGRESS_BAR.search(data.get("text/plain", "")):
            return None
        output.data = NotebookNode({"text/plain": WIDGET_TEXT})
    return output


def clean_text(text: str) -> str:
    """Printed text as a terminal would leave it: after a carriage return the line begins anew."""
    lines = ANSI.sub("", text).replace("\r\n", "\n").split("\n")
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines]
    return "\n".join(line for line in lines if not PROGRESS_BAR.search(line))


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring pieces of the same stream as one: where they were cut is a matter of chance."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged

"""The notebooks in the repository: of their current sources, alike where they must be, fit to publish."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from notebooks.build import why_stale
from notebooks.convert import DIFFUSION, NER, ROOT, TEXT_TO_IMAGE, convert, repository
from notebooks.pictures import picture

SOURCES = sorted((ROOT / "notebooks" / "src").glob("[0-9][0-9]_*.py"))
MACHINE_PATH = re.compile(r"/(?:home|root|tmp|work|Users|opt|usr/local)/[\w.-]+|[A-Z]:\\\\")
MAX_BYTES, MAX_LINES, MAX_COLUMNS = 3_000_000, 25, 92
MAX_PICTURE_BYTES = 80_000
BEGIN_WITH_IT = ("00", "03")  # their first section draws the finished thing

pytestmark = pytest.mark.skipif(not SOURCES, reason="there are no notebooks yet")


@pytest.fixture(params=SOURCES, ids=lambda source: source.stem)
def source(request) -> Path:
    return request.param


@pytest.fixture
def path(source) -> Path:
    path = ROOT / "notebooks" / f"{source.stem}.ipynb"
    assert path.exists(), f"{path.name} is not built; run: python notebooks/build.py {source.name[:2]}"
    return path


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def texts(output) -> list[str]:
    """The readable parts of an output: everything but encoded pictures."""
    if output.output_type == "stream":
        return [output.text]
    data = output.get("data", {})
    readable = [data[kind] for kind in data if kind.startswith("text/")]
    return [re.sub(r"[A-Za-z0-9+/=]{200,}", "", "".join(text)) for text in readable]


def test_every_notebook_has_a_source_and_the_other_way_round():
    built = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert built == {source.stem for source in SOURCES}


def test_it_is_built_from_its_current_source(source, path):
    assert why_stale(source, path) is None


def test_the_setup_cell_is_that_of_its_track(source):
    cells = [cell for cell in convert(source).cells if cell.cell_type == "code"]
    assert ["setup" in cell.metadata.get("tags", []) for cell in cells] == [True] + [False] * (len(cells) - 1)
    model = convert(SOURCES[0]).cells[1].source
    assert DIFFUSION in model and len(model.splitlines()) <= 25
    assert cells[0].source in [model.replace(DIFFUSION, packages) for packages in (DIFFUSION, NER, TEXT_TO_IMAGE)]


def test_the_badge_opens_this_notebook(source):
    slug = repository().removeprefix("https://github.com/")
    address = f"https://colab.research.google.com/github/{slug}/blob/main/notebooks/{source.stem}.ipynb"
    assert address in convert(source).cells[0].source


def test_the_title_shows_the_finished_thing_as_a_picture(source):
    number, (title, *cells) = source.name[:2], convert(source).cells
    tagged = [cell.id for cell in cells if "picture" in cell.metadata.get("tags", [])]
    shown = re.findall(r"!\[([^\]]{30,})\]\(\.\./data/pictures/(\d\d)\.png\)", title.source)
    assert (len(tagged), [n for _, n in shown]) == ((0, []) if number in BEGIN_WITH_IT else (1, [number]))


def test_that_picture_is_what_the_notebook_drew(source, notebook):
    path = ROOT / "data" / "pictures" / f"{source.name[:2]}.png"
    drawn = picture(notebook)
    assert path.exists() == (drawn is not None)
    if drawn is not None:
        assert path.stat().st_size < MAX_PICTURE_BYTES
        then, now = (np.asarray(image.convert("RGB"), dtype=float) for image in (Image.open(path), drawn))
        # Another Pillow may choose slightly other colours; one digit of a title is more than that.
        assert then.shape == now.shape and (abs(then - now) > 64).mean() < 2e-4


def test_the_file_is_small_enough(path):
    assert path.stat().st_size < MAX_BYTES


def test_it_is_valid_and_was_run_from_top_to_bottom(notebook):
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_no_output_is_an_error_a_warning_or_a_live_widget(notebook):
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.text
            assert not [kind for kind in output.get("data", {}) if "widget" in kind], cell.source


def test_no_output_names_a_folder_of_the_machine_it_ran_on(notebook):
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for text in texts(output):
                assert not MACHINE_PATH.search(text) and str(ROOT) not in text, text


def test_code_cells_are_short_and_narrow(source):
    """So that they are read without scrolling in Colab and JupyterLab; the width counts long strings too."""
    cells = {cell.id: cell.source.splitlines() for cell in convert(source).cells if cell.cell_type == "code"}
    long = {cell: len(lines) for cell, lines in cells.items() if len(lines) > MAX_LINES}
    wide = {cell: line for cell, lines in cells.items() for line in lines if len(line) > MAX_COLUMNS}
    assert not long
    assert not wide

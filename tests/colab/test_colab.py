"""Notebook 01 as Colab runs it: an empty folder, Colab's versions, the course cloned by the set-up cell."""

import fnmatch
import json
import shutil

import nbclient
import nbformat
import pytest

from notebooks.convert import repository
from tests.colab.sandbox import PINNED, NoNetworkError, colab_kernel, colab_python, published

NOTEBOOK = "notebooks/01_noise_schedule.ipynb"
REPORT = """
import importlib.metadata, json, sys, google.colab, utils
names = {names}
print(json.dumps(dict(
    versions={{name: importlib.metadata.version(name) for name in names}},
    course=utils.__file__, python=sys.prefix,
)))
"""


@pytest.fixture(scope="module")
def python(root):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    try:
        return colab_python(root / "build" / "colab")
    except NoNetworkError as reason:
        pytest.skip(str(reason))


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("path", [NOTEBOOK])
def test_notebook_runs_in_an_empty_folder(root, python, tmp_path, monkeypatch, path):
    empty = tmp_path / "content"
    empty.mkdir()
    kernel = colab_kernel(python, tmp_path, published(root, tmp_path), repository())
    monkeypatch.setenv("JUPYTER_PATH", str(kernel))
    notebook = nbformat.read(root / path, as_version=4)
    names = [line.partition("==")[0] for line in PINNED]
    notebook.cells.append(nbformat.v4.new_code_cell(REPORT.format(names=names)))
    client = nbclient.NotebookClient(
        notebook, timeout=150, kernel_name="colab", resources={"metadata": {"path": str(empty)}}
    )
    client.execute()

    text = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("profile test" in line for line in text), "the set-up cell did not say what it found"
    report = json.loads(text[-1])
    assert report["course"].startswith(str(empty)), "the course was not taken from the clone"
    for line in PINNED:
        name, _, wanted = line.partition("==")
        assert fnmatch.fnmatch(report["versions"][name], wanted), f"the set-up cell replaced Colab's {name}"

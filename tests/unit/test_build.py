"""Building a notebook from its source: conversion, execution, cleaning, and what is refused."""

import base64
import io
import os

import nbformat
import pytest
from nbformat.v4 import new_output
from PIL import Image

from notebooks.build import main, why_stale
from notebooks.convert import ROOT, WIDGET_TEXT, WIDGET_TYPE, clean, clean_text, convert, repository, source_sha256
from notebooks.pictures import picture as picture_of

HEADER = """# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

"""
SOURCE = (
    HEADER
    + """# %% [markdown]
# # A tiny notebook
#
# {{badge}}

# %% tags=["setup"] editable=true
import os

print(os.environ["COURSE_PROFILE"], Path.cwd().name)

# %%
import sys

print("\\x1b[31mred\\x1b[0m")
for k in range(3):
    print(f"\\rtrain: {50 * k}%|##  | {k}/2 [00:00<00:00, 9.00it/s]", end="", file=sys.stderr)

# %% tags=["picture"]
from IPython.display import Image, display

PIXEL = "PNG"
display({"image/png": PIXEL, "text/plain": "a pixel"}, raw=True)
"""
)


def png(image=None):
    image = image or Image.new("RGB", (1, 1), "red")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def make_checkout(root):
    """A folder laid out like the course, with one small notebook and a `utils` that holds nothing."""
    (root / "notebooks" / "src").mkdir(parents=True)
    (root / "utils" / "course").mkdir(parents=True)
    (root / "utils" / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md"):
        (root / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    add_source(root, "01_tiny", SOURCE.replace("PNG", png()))
    return root


def add_source(checkout, name, text):
    (checkout / "notebooks" / "src" / f"{name}.py").write_text(text)


@pytest.fixture
def checkout(tmp_path):
    return make_checkout(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The small notebook, built once for the tests that only look at it."""
    root = make_checkout(tmp_path_factory.mktemp("built"))
    assert main(["01", "--figures", str(root / "figures")], root) == 0
    return root


def read(path):
    return nbformat.read(path, as_version=4)


def test_ids_tags_and_metadata_do_not_change_between_builds(checkout):
    source = checkout / "notebooks" / "src" / "01_tiny.py"
    notebook = convert(source)
    assert [cell.id for cell in notebook.cells] == ["nb01-000", "nb01-001", "nb01-002", "nb01-003"]
    assert [dict(cell.metadata) for cell in notebook.cells] == [{}, {"tags": ["setup"]}, {}, {"tags": ["picture"]}]
    assert notebook.metadata.language_info == {"name": "python"}
    assert notebook == convert(source)


def test_badge_and_set_up_cell_are_filled_in(built):
    title, setup = read(built / "notebooks" / "01_tiny.ipynb").cells[:2]
    slug = repository(built).removeprefix("https://github.com/")
    assert f"https://colab.research.google.com/github/{slug}/blob/main/notebooks/01_tiny.ipynb)" in title.source
    assert setup.source.startswith("# Set-up: ") and setup.source.endswith("Path.cwd().name)")
    assert f'"{repository(built)}"' in setup.source


def test_a_built_notebook_is_clean_and_says_where_it_is_from(built):
    notebook = read(built / "notebooks" / "01_tiny.ipynb")
    nbformat.validate(notebook)
    course = notebook.metadata.course
    assert course.source_sha256 == source_sha256(built / "notebooks" / "src" / "01_tiny.py")
    assert course.profile == "cpu" and course.seconds >= 0
    assert course.peak_memory_mib is None or 20 < course.peak_memory_mib < 2000
    assert notebook.metadata.accelerator == "GPU" and notebook.metadata.colab.gpuType == "T4"
    setup, noisy, picture = notebook.cells[1:]
    assert setup.outputs[0].text == "cpu notebooks\n"
    assert [output.text for output in noisy.outputs] == ["red\n"]
    assert "execution" not in noisy.metadata and "image/png" in picture.outputs[0].data


def test_figures_are_written_out(built):
    assert [file.name for file in (built / "figures").iterdir()] == ["01_003_0.png"]
    assert Image.open(built / "figures" / "01_003_0.png").size == (1, 1)


def test_what_the_tagged_cell_drew_is_written_small(built):
    picture = Image.open(built / "data" / "pictures" / "01.png")
    assert picture.size == (1, 1) and picture.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    first, last = (Image.new("RGBA", (2200, height), (0, 0, 0, 0)) for height in (300, 400))
    small = picture_of(tagged(first, last))
    assert small.size == (1100, 200) and small.convert("RGB").getpixel((5, 5)) == (255, 255, 255)


def test_one_cell_at_most_is_the_picture_and_it_draws_one():
    notebook = nbformat.v4.new_notebook()
    assert picture_of(notebook) is None
    notebook.cells = tagged().cells
    with pytest.raises(ValueError, match="tagged 'picture' and drew none"):
        picture_of(notebook)
    notebook.cells *= 2
    with pytest.raises(ValueError, match="expected one"):
        picture_of(notebook)


def tagged(*images):
    """A notebook of one cell that is tagged `picture` and has drawn these."""
    outputs = [new_output("display_data", {"image/png": png(image)}) for image in images]
    cell = nbformat.v4.new_code_cell("", outputs=outputs, metadata={"tags": ["picture"]})
    return nbformat.v4.new_notebook(cells=[cell])


def test_check_passes_until_source_or_notebook_is_edited(built, capsys):
    source, notebook = built / "notebooks" / "src" / "01_tiny.py", built / "notebooks" / "01_tiny.ipynb"
    assert main(["--check"], built) == 0
    text, page = source.read_text(), notebook.read_text()
    try:
        source.write_text(text + "\n# %%\n1 + 1\n")
        assert main(["--check"], built) == 1
        assert "built from another version" in capsys.readouterr().out
        source.write_text(text)
        notebook.write_text(page.replace("A tiny notebook", "A small notebook"))
        assert "edited by hand" in why_stale(source, notebook)
        notebook.write_text(page.replace('"profile": "cpu"', '"profile": "test"'))
        assert "'test' profile" in why_stale(source, notebook)
        notebook.unlink()
        assert "missing" in why_stale(source, notebook)
    finally:
        source.write_text(text)
        notebook.write_text(page)
    assert main(["--check"], built) == 0


def test_summary_lists_time_memory_and_what_is_not_built(built, capsys):
    add_source(built, "02_more", HEADER + "# %%\n1 + 1\n")
    assert main(["--summary"], built) == 0
    printed = capsys.readouterr().out
    (built / "notebooks" / "src" / "02_more.py").unlink()
    assert "01_tiny" in printed and "VmHWM" in printed and "not built" in printed


def test_an_error_names_notebook_and_cell_and_the_others_are_built(checkout, capsys):
    add_source(checkout, "02_bad", HEADER + "# %%\nx = 1\n\n# %%\nraise ValueError('the reason')\n")
    old = checkout / "notebooks" / "02_bad.ipynb"
    old.write_text("the last good build")
    add_source(checkout, "03_good", HEADER + "# %%\n6 * 7\n")
    assert main(["02", "03"], checkout) == 1
    error = capsys.readouterr().err
    assert "02_bad, cell 1 (nb02-001)" in error and "ValueError" in error and "the reason" in error
    assert old.read_text() == "the last good build"
    assert read(checkout / "notebooks" / "03_good.ipynb").cells[0].outputs[0].data["text/plain"] == "42"


def test_a_kernel_that_dies_is_an_error_too(checkout, capsys):
    add_source(checkout, "02_dies", HEADER + "# %%\nimport os\n\nos._exit(1)\n")
    assert main(["02"], checkout) == 1
    assert "02_dies, cell 0" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="asks POSIX whether a process lives")
@pytest.mark.parametrize("then", ["", "raise ValueError"])
def test_no_kernel_is_left_running(checkout, then):
    code = 'import os\nfrom pathlib import Path\n\nPath("pid").write_text(str(os.getpid()))\n'
    add_source(checkout, "02_pid", f"{HEADER}# %%\n{code}{then}\n")
    main(["02"], checkout)
    pid = int((checkout / "notebooks" / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_another_profile_goes_to_another_folder(checkout, capsys):
    with pytest.raises(SystemExit):
        main(["--profile", "test"], checkout)
    assert "--out" in capsys.readouterr().err
    assert main(["--profile", "test", "--out", str(checkout / "out")], checkout) == 0
    notebook = read(checkout / "out" / "01_tiny.ipynb")
    assert notebook.cells[1].outputs[0].text == "test notebooks\n"
    assert not (checkout / "notebooks" / "01_tiny.ipynb").exists()


def test_a_relative_folder_of_data_starts_where_the_build_was_called(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("COURSE_DATA", "corpora")
    code = 'import os\nfrom pathlib import Path\n\nPath("where").write_text(os.environ["COURSE_DATA"])\n'
    add_source(checkout, "02_where", f"{HEADER}# %%\n{code}")
    assert main(["02"], checkout) == 0
    assert (checkout / "notebooks" / "where").read_text() == str(checkout / "corpora")


def test_an_unknown_number_lists_the_known_ones(checkout, capsys):
    assert main(["07"], checkout) == 1
    assert "no notebook '07'; there are: 01" in capsys.readouterr().err


def test_a_control_leaves_a_line_of_text_and_a_progress_bar_nothing():
    notebook = nbformat.v4.new_notebook(metadata={"widgets": {"state": {}}})
    bar, control = " 10%|#    | 1/10 [00:00<?, ?it/s]", "VBox(children=(IntSlider(value=3),))"
    outputs = [
        new_output("display_data", {WIDGET_TYPE: {"model_id": "1"}, "text/plain": text}) for text in (bar, control)
    ]
    notebook.cells = [nbformat.v4.new_code_cell("play()", outputs=outputs, metadata={"execution": {"a": "b"}})]
    clean(notebook)
    assert [output.data for output in notebook.cells[0].outputs] == [{"text/plain": WIDGET_TEXT}]
    assert not notebook.metadata and not notebook.cells[0].metadata


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\rb\n", "b\n"),
        ("a\r\nb\n", "a\nb\n"),
        ("loss 0.5\r", "loss 0.5"),
        ("train:  50%|#####     | 5/10 [00:01<00:01, 4.9it/s]\nend\n", "end\n"),
        ("12it [00:03, 3.9it/s]\n", ""),
        # Not a progress bar, so it stays.
        ("throughput 3.9 it/s, 50% done | good\n", "throughput 3.9 it/s, 50% done | good\n"),
        ("\x1b[1;31mError\x1b[0m", "Error"),
    ],
)
def test_printed_text_is_kept_as_a_terminal_would_leave_it(text, cleaned):
    assert clean_text(text) == cleaned


def test_pieces_of_one_stream_become_one_and_warnings_stay():
    notebook = nbformat.v4.new_notebook()
    pieces = [("stdout", "a"), ("stdout", "\n"), ("stdout", "b\n"), ("stderr", "UserWarning: c\n"), ("stdout", "d\n")]
    outputs = [new_output("stream", name=name, text=text) for name, text in pieces]
    notebook.cells = [nbformat.v4.new_code_cell("", outputs=outputs)]
    clean(notebook)
    assert [(output.name, output.text) for output in notebook.cells[0].outputs] == [
        ("stdout", "a\nb\n"),
        ("stderr", "UserWarning: c\n"),
        ("stdout", "d\n"),
    ]


def test_prose_keeps_the_outputs_of_unchanged_code(checkout):
    source = checkout / "notebooks" / "src" / "01_tiny.py"
    assert main(["01"], checkout) == 0
    built = checkout / "notebooks" / "01_tiny.ipynb"
    before = [cell.outputs for cell in nbformat.read(built, as_version=4).cells if cell.cell_type == "code"]
    longer = "# # A small notebook\n\n# %% [markdown]\n# More."
    source.write_text(source.read_text().replace("# # A tiny notebook", longer))
    assert why_stale(source, built) is not None
    assert main(["--prose", "01"], checkout) == 0
    after = nbformat.read(built, as_version=4)
    assert why_stale(source, built) is None
    assert "small" in after.cells[0].source
    assert [cell.outputs for cell in after.cells if cell.cell_type == "code"] == before
    built.write_text(built.read_text().replace("# Set-up: find the course", "# Set-up: look for it"))
    assert main(["--prose", "01"], checkout) == 0 and why_stale(source, built) is None
    text = source.read_text()
    for old, new in (("import sys", "import sys, io"), ("import os\n", "import os  # by the set-up cell\n")):
        source.write_text(text.replace(old, new))
        assert main(["--prose", "01"], checkout) == 1, "code that was not run must not get old outputs"
        assert why_stale(source, built) is not None


def test_set_repo_leaves_no_old_address_and_keeps_the_outputs(checkout):
    assert main(["01"], checkout) == 0
    readme, built = checkout / "README.md", checkout / "notebooks" / "01_tiny.ipynb"
    slug = repository(checkout).removeprefix("https://github.com/")
    # What only begins like the address, or is at another place, is another repository.
    others = f"not ours: https://github.com/{slug}-two and https://gitlab.com/{slug}\n"
    readme.write_text(f"{readme.read_text('utf-8')}git clone https://github.com/{slug}.git\n{others}", "utf-8")
    before = {path: path.read_text("utf-8") for path in (readme, built, checkout / "pyproject.toml")}
    for new in ("ada/a-course", "Charles-B/second.try", slug):
        assert main(["--set-repo", f"https://github.com/{new}"], checkout) == 0
        assert repository(checkout) == f"https://github.com/{new}"
        assert main(["--check"], checkout) == 0
        texts = [path.read_text("utf-8").replace(others, "") for path in before]
        assert all(new in text and (new == slug or slug not in text) for text in texts)
        assert f"git clone https://github.com/{new}.git" in texts[0]
    assert {path: path.read_text("utf-8") for path in before} == before


def test_a_course_without_an_address_says_so(built, capsys):
    project = built / "pyproject.toml"
    whole = project.read_text("utf-8")
    project.write_text(whole.replace("Repository =", "Homepage ="), "utf-8")
    for options in (["--check"], ["--prose"], ["--set-repo", "https://github.com/ada/a-course"], []):
        assert main(options, built) == 1
        error = capsys.readouterr().err
        assert f"error: {project} has no address of the course; expected, under [project.urls]" in error
    project.write_text(whole, "utf-8")


def test_set_repo_does_not_freshen_a_stale_notebook(checkout, capsys):
    assert main(["01"], checkout) == 0
    source = checkout / "notebooks" / "src" / "01_tiny.py"
    source.write_text(source.read_text() + "\n# %%\n1 + 1\n")
    assert main(["--set-repo", "https://github.com/ada/a-course"], checkout) == 1
    assert "code in src/01_tiny.py changed" in capsys.readouterr().err
    assert main(["--check"], checkout) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://github.com/ada/course",
        "https://gitlab.com/ada/course",
        "https://github.com/ada",
        "https://github.com/ada/course/tree/main",
        "https://github.com/ada/course.git",
        "git@github.com:ada/course",
        "https://github.com/ada/co urse",
        'https://github.com/ada/course"',
        "ada/course",
    ],
)
def test_other_addresses_are_refused_and_nothing_changes(checkout, url, capsys):
    before = (checkout / "README.md").read_text("utf-8"), repository(checkout)
    assert main(["--set-repo", url], checkout) == 1
    error = capsys.readouterr().err
    assert repr(url) in error and "https://github.com/<owner>/<repository>" in error
    assert ((checkout / "README.md").read_text("utf-8"), repository(checkout)) == before


def test_the_address_stands_in_one_place():
    slug = repository().removeprefix("https://github.com/")
    files = [path for folder in ("utils", "tests", "notebooks") for path in (ROOT / folder).rglob("*.py")]
    assert [path for path in files if slug in path.read_text("utf-8")] == []

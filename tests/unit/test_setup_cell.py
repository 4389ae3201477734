"""The set-up cell that the build puts into every notebook: what it finds, fetches, installs and refuses."""

import subprocess
import sys

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from notebooks.convert import ROOT, convert, repository

DIFFUSION, NER = "01_noise_schedule", "09_biomedical_ner"
# Stands in for IPython: what the cell would run outside Python is only printed; a clone is a link to this checkout.
SHELL = """
class Shell:
    def system(self, command):
        print("$", command := command.format(**globals()))
        if CLONED:
            Path(command.split('"')[1]).mkdir()
            (Path(command.split('"')[1]) / "utils").symlink_to(CLONED)

    def run_line_magic(self, name, line):
        print(f"%{name} {line}")

get_ipython = Shell
"""


def run(folder, name=DIFFUSION, before="", cloned=str(ROOT / "utils")):
    """What the set-up cell prints, run in `folder` after `before`, and how it fails."""
    cell = TransformerManager().transform_cell(convert(ROOT / "notebooks" / "src" / f"{name}.py").cells[1].source)
    code = f"{SHELL}CLONED = {cloned!r}\n{before}{cell}"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    return done.stdout.splitlines(), done.stderr


@pytest.fixture
def course(tmp_path):
    """A checkout in a folder `diffusion-ner-course`."""
    root = tmp_path / "diffusion-ner-course"
    (root / "notebooks").mkdir(parents=True)
    (root / "utils").symlink_to(ROOT / "utils", target_is_directory=True)
    return root


def test_in_a_checkout_it_fetches_and_installs_nothing():
    printed, error = run(ROOT / "tests" / "unit")
    assert error == "" and len(printed) == 1 and printed[0].startswith("Course ready")


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        (DIFFUSION, "accelerate safetensors diffusers"),
        (NER, "python-crfsuite snowballstemmer spacy transformers"),
        ("15_text_to_image", "accelerate safetensors diffusers transformers"),
    ],
)
def test_elsewhere_it_clones_the_public_address_and_installs_what_the_track_needs(tmp_path, name, needed):
    (clone, install, ready), _ = run(tmp_path, name)
    assert clone == f'$ git clone --quiet --depth 1 {repository()} "{tmp_path / "diffusion-ner-course"}"'
    # torch and numpy are the machine's own: replacing Colab's would break its GPU set-up.
    assert install == f"%pip install --quiet {needed}" and ready.startswith("Course ready")


def test_a_clone_that_fails_stops_the_cell(tmp_path):
    """Also where an earlier one left an empty folder."""
    for _ in range(2):
        (clone,), error = run(tmp_path, cloned="")
        assert clone.startswith("$ git clone")
        assert error.endswith(f"AssertionError: git could not fetch {repository()}: see above, run again\n")
        (tmp_path / "diffusion-ner-course").mkdir(exist_ok=True)


def test_a_restarted_kernel_does_not_clone_again(course):
    (install, ready), error = run(course.parent)
    assert error == "" and install.startswith("%pip") and ready.startswith("Course ready")


def test_a_file_called_utils_beside_the_notebook_does_not_hide_the_course(course):
    (course / "notebooks" / "utils.py").write_text("mine = 1\n")
    printed, error = run(course / "notebooks")
    assert error == "" and printed[-1].startswith("Course ready")


def test_another_utils_that_was_imported_before_is_named(course):
    (course / "notebooks" / "utils.py").write_text("mine = 1\n")
    printed, error = run(course / "notebooks", before="import utils\n")
    assert printed == [] and "AssertionError: rename " in error and "utils.py: it hides the course" in error


def test_nor_does_a_folder_called_utils_that_is_no_package(course):
    """A folder alone can be imported too, where nothing better is found; it has no file."""
    (course / "notebooks" / "utils").mkdir()
    alone = 'import sys\nsys.path = [p for p in sys.path if not (Path(p or ".") / "utils" / "__init__.py").exists()]\n'
    printed, error = run(course / "notebooks", before=f"from pathlib import Path\n{alone}import utils\n")
    assert printed == [] and f"AssertionError: rename {course / 'notebooks' / 'utils'}: it hides the course" in error

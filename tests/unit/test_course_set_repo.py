"""The public address: one place, rewritten everywhere; and the set-up cell that uses it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from utils.course.build import main, write
from utils.course.convert import convert, source_sha256
from utils.course.set_repo import set_repo
from utils.course.setup_cell import ROOT, repository, setup_cell

BADGE = "https://colab.research.google.com/github/{}/blob/main/notebooks/{}.ipynb"


def make_checkout(root):
    """pyproject, README, and notebooks with badge, set-up cell and an output, as the course has them."""
    slug = repository(ROOT).removeprefix("https://github.com/")
    (root / "notebooks" / "src").mkdir(parents=True)
    (root / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    badges = "\n".join(f"[open]({BADGE.format(slug, name)})" for name in ("01_one", "02_two"))
    (root / "README.md").write_text(
        f"git clone https://github.com/{slug}.git\n{badges}\nnot ours: https://github.com/{slug}-other\n"
    )
    for name in ("01_one", "02_two"):
        source = root / "notebooks" / "src" / f"{name}.py"
        source.write_text(
            f"# %% [markdown]\n# # {name}\n# [open]({BADGE.format(slug, name)})\n\n"
            f'# %% tags=["setup"]\n{setup_cell(ROOT)}\n\n# %%\n6 * 7\n'
        )
        notebook = convert(source)
        notebook.cells[-1].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "42"})]
        notebook.metadata.course = {
            "source_sha256": source_sha256(source),
            "profile": "cpu",
            "seconds": 1,
            "peak_memory_mib": 1,
        }
        write(notebook, root / "notebooks" / f"{name}.ipynb")
    return slug


@pytest.fixture
def checkout(tmp_path):
    make_checkout(tmp_path)
    return tmp_path


def texts(root):
    return {path: path.read_text() for path in root.rglob("*") if path.is_file()}


def test_set_repo_leaves_no_old_address_and_can_be_run_again(checkout, capsys):
    placeholder = old = repository(checkout).removeprefix("https://github.com/")
    for new in ("ada/a-course", "Charles-B/second.try"):
        assert main(["--set-repo", f"https://github.com/{new}"], checkout) == 0
        for path, text in texts(checkout).items():
            if path.suffix == ".py" or path.suffix == ".ipynb":
                assert BADGE.format(new, path.stem) in text
                assert f'"https://github.com/{new}"' in text.replace('\\"', '"')
            # What only begins like the address is another repository.
            assert old not in text.replace(f"github.com/{old}-other", "")
        readme = (checkout / "README.md").read_text()
        assert f"not ours: https://github.com/{placeholder}-other" in readme
        assert f"git clone https://github.com/{new}.git" in readme and BADGE.format(new, "02_two") in readme
        assert repository(checkout) == f"https://github.com/{new}"
        assert main(["--check"], checkout) == 0
        notebook = nbformat.read(checkout / "notebooks" / "01_one.ipynb", as_version=4)
        assert notebook.cells[1].source == setup_cell(checkout)
        assert notebook.cells[-1].outputs[0].data["text/plain"] == "42"
        old = new


def test_set_repo_back_and_forth_gives_the_same_bytes(checkout):
    before, address = texts(checkout), repository(checkout)
    set_repo("https://github.com/ada/a-course", checkout)
    set_repo(address, checkout)
    assert texts(checkout) == before


def test_the_address_that_it_has_changes_nothing(checkout):
    assert set_repo(repository(checkout), checkout) == []


def test_a_stale_notebook_stays_stale(checkout):
    source = checkout / "notebooks" / "src" / "01_one.py"
    source.write_text(source.read_text() + "\n# %%\n1 + 1\n")
    set_repo("https://github.com/ada/a-course", checkout)
    assert main(["--check", "01"], checkout) == 1
    assert main(["--check", "02"], checkout) == 0


def test_a_run_that_was_interrupted_is_finished_by_the_next(checkout, monkeypatch):
    from utils.course import set_repo as module

    rewrite, slug = module._rewrite, repository(checkout).removeprefix("https://github.com/")

    def interrupted(path, change):
        if path.name == "README.md":
            raise KeyboardInterrupt
        return rewrite(path, change)

    monkeypatch.setattr(module, "_rewrite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        set_repo("https://github.com/ada/a-course", checkout)
    monkeypatch.undo()
    set_repo("https://github.com/ada/a-course", checkout)
    assert not any(slug in text.replace(f"{slug}-other", "") for text in texts(checkout).values())
    assert main(["--check"], checkout) == 0


@pytest.mark.parametrize(
    "url",
    [
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
    before = texts(checkout)
    assert main(["--set-repo", url], checkout) == 1
    error = capsys.readouterr().err
    assert repr(url) in error and "https://github.com/<owner>/<repository>" in error
    assert texts(checkout) == before


def test_a_pyproject_without_address_is_an_error(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(ValueError, match="has no line Repository"):
        repository(tmp_path)


def test_the_address_stands_in_one_place():
    slug = repository().removeprefix("https://github.com/")
    files = [*(ROOT / "utils").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert [path for path in files if slug in path.read_text()] == []


def test_the_setup_cell_can_be_read_at_a_glance():
    lines = setup_cell().splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 110


def run_setup_cell(monkeypatch, folder, missing=()):
    """Run the cell in `folder`; what it would have run outside is only noted."""
    commands = []
    find_spec = importlib.util.find_spec
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find_spec(name))
    namespace = {}
    exec(setup_cell(), namespace)
    return namespace, commands


def test_in_a_checkout_the_setup_cell_fetches_and_installs_nothing(monkeypatch, capsys):
    namespace, commands = run_setup_cell(monkeypatch, ROOT / "tests" / "unit", missing={"accelerate"})
    assert commands == [] and namespace["root"] == ROOT
    assert sys.path[0] == str(ROOT) and namespace["course"].root == ROOT
    assert capsys.readouterr().out.startswith("Course ready")


def test_elsewhere_it_clones_and_installs_only_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_REPO", "file:///somewhere/course")
    missing = {"accelerate", "safetensors", "torch", "numpy"}
    _, commands = run_setup_cell(monkeypatch, tmp_path, missing)
    clone, install = commands
    assert clone[:2] == ["git", "clone"]
    assert clone[-2:] == ["file:///somewhere/course", str(tmp_path / "diffusion-ner-course")]
    # torch and numpy are the machine's own: replacing Colab's would break its GPU set-up.
    assert install[:4] == [sys.executable, "-m", "pip", "install"]
    assert install[-2:] == ["accelerate", "safetensors"] and not {"torch", "numpy"} & set(install)


def test_a_restarted_kernel_does_not_clone_again(monkeypatch, tmp_path):
    (tmp_path / "diffusion-ner-course").mkdir()
    _, commands = run_setup_cell(monkeypatch, tmp_path)
    assert commands == []


def test_without_the_variable_it_clones_the_public_address(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_REPO", raising=False)
    _, commands = run_setup_cell(monkeypatch, Path(tmp_path))
    assert repository() in commands[0]

"""pyproject.toml, environment.yml, constraints.txt, Makefile and README.md say the same things."""

import os
import re
import shutil
import subprocess

import pytest
import tomli
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
CONDA_NAMES = {"pytorch": "torch"}


@pytest.fixture(scope="module")
def project(root):
    return tomli.loads((root / "pyproject.toml").read_text("utf-8"))["project"]


def requirements(lines):
    parsed = [Requirement(line) for line in lines]
    return {CONDA_NAMES.get(one.name, one.name): one.specifier for one in parsed}


def conda_requirements(root):
    entries = yaml.safe_load((root / "environment.yml").read_text("utf-8"))["dependencies"]
    lines = [entry for entry in entries if isinstance(entry, str)]
    for entry in entries:
        lines += entry["pip"] if isinstance(entry, dict) else []
    found = requirements(lines)
    return found.pop("python"), {name: spec for name, spec in found.items() if name != "pip"}


def test_conda_and_pip_install_the_same(root, project):
    _, conda = conda_requirements(root)
    pip = requirements(project["dependencies"] + project["optional-dependencies"]["test"])
    assert conda == pip


def test_every_requirement_has_a_floor(project):
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    for name, spec in requirements(project["dependencies"] + extras).items():
        assert any(part.operator == ">=" for part in spec), f"{name} has no lowest version"


def test_constraints_lie_within_the_floors(root, project):
    pip = requirements(project["dependencies"] + project["optional-dependencies"]["test"])
    lines = (root / "constraints.txt").read_text("utf-8").splitlines()
    for name, spec in requirements(line for line in lines if line and not line.startswith("#")).items():
        (pin,) = spec
        assert pin.operator == "=="
        assert pin.version in pip.get(name, SpecifierSet())


def test_python_versions(root, project):
    allowed = SpecifierSet(project["requires-python"])
    minors = [f"3.{minor}" for minor in range(8, 20)]
    assert tuple(version for version in minors if version in allowed) == PYTHONS
    assert conda_requirements(root)[0] == allowed
    assert "|".join(PYTHONS) in (root / "Makefile").read_text("utf-8")
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in (root / "README.md").read_text("utf-8")


def test_commands_in_the_readme_exist(root):
    makefile = (root / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))
    readme = (root / "README.md").read_text("utf-8")
    code = re.findall(r"```.*?```|`[^`\n]+`", readme, flags=re.DOTALL)
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", "\n".join(code)))
    assert {"run", "test"} <= named
    assert named <= targets, f"README.md names {sorted(named - targets)}, which the Makefile does not have"
    texts = (readme + makefile).replace("$(PY)", "python")
    for script in set(re.findall(r"python ((?:notebooks|data)/\S+\.py)", texts)):
        assert (root / script).is_file(), f"there is no {script}"
    modules = set(re.findall(r"python -m (utils(?:\.\w+)+|tests(?:\.\w+)+)", texts))
    for module in modules:
        path = root / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"there is no {module}"


def test_the_list_of_floors_is_written_anew_only_where_pyproject_changed(root, project, tmp_path):
    """What depends on it is installed again where it is newer."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(root / name, tmp_path)
    floors, listed = tmp_path / "build" / "floors.txt", []
    for change in (False, True, False):
        if change:
            os.utime(floors, (1e9, 1e9))
        subprocess.run(["make", "--silent", "build/floors.txt"], cwd=tmp_path, check=True)
        listed.append((floors.stat().st_mtime_ns, floors.read_text("utf-8").split()))
    assert listed[0] != listed[1] == listed[2]
    names = {line.partition("==")[0] for line in listed[0][1]}
    assert names >= {Requirement(line).name for line in project["dependencies"]} and "ruff" not in names


def test_one_repository_address(root, project):
    """Badges, set-up cells and clone commands name the address that pyproject.toml states."""
    url = project["urls"]["Repository"]
    patterns = {
        r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob": url.removeprefix("https://github.com/"),
        r"url = Path\.cwd\(\), \\?\"([^\"\\]+)": url,
        r"git clone (https://\S+)": url,
    }
    for place in [root / "README.md", *root.glob("notebooks/src/*.py"), *root.glob("notebooks/*.ipynb")]:
        text = place.read_text("utf-8")
        for pattern, expected in patterns.items():
            others = set(re.findall(pattern, text)) - {expected}
            assert not others, f"{place.name} names {sorted(others)}, pyproject.toml {url}"

"""What Colab has, near enough: its package versions, a `google.colab` module, a git URL, an empty folder."""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from packaging.requirements import Requirement

# Colab's versions in August 2026. PyTorch and torchvision are those of this environment: large, and the same API.
PINNED = [
    "accelerate==1.14.*",
    "ipykernel==6.17.*",
    "ipython==7.34.*",
    "ipywidgets==7.7.1",
    "matplotlib==3.10.*",
    "numpy==2.1.*",
]
# What these need, with no more than that: ipywidgets 7 would bring the whole notebook server with it.
NEEDED = [
    "diffusers",
    "huggingface-hub",
    "ipython-genutils",
    "pandas",
    "pillow",
    "psutil",
    "python-crfsuite",
    "pyyaml",
    "safetensors",
    "scikit-learn",
    "scipy",
    "setuptools<81",  # IPython 7 imports pkg_resources
    "snowballstemmer",
    "spacy",
    "tqdm",
    "transformers",
]
WITHOUT_DEPENDENCIES = ("accelerate", "ipywidgets")
OFFLINE_SIGNS = ("NewConnectionError", "NameResolutionError", "ConnectTimeout", "Network is unreachable")


class NoNetworkError(RuntimeError):
    """No package index answered."""


def colab_python(folder: Path) -> Path:
    """The Python of an environment with Colab's versions; made in `folder` the first time (about a minute).

    Raises:
        NoNetworkError: the packages are not at hand and no index answers.
        RuntimeError: pip failed for another reason; its last lines are in the message.
    """
    recipe = "\n".join([*PINNED, *NEEDED, sys.version, importlib.metadata.version("torch"), sys.prefix])
    home = folder / hashlib.sha256(recipe.encode()).hexdigest()[:12]
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (home / "complete").exists():
        venv.create(home, clear=True, with_pip=True)
        alone = [line for line in PINNED if line.startswith(WITHOUT_DEPENDENCIES)]
        install(python, [line for line in PINNED if line not in alone] + NEEDED)
        install(python, ["--no-deps", *alone])
        expose(["torch", "torchvision"], home / "torch", site_packages(python))
        (home / "complete").touch()
    return python


def install(python: Path, arguments: list[str]) -> None:
    """`pip install` into the environment of `python`."""
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    if done.returncode and any(sign in done.stderr for sign in OFFLINE_SIGNS):
        raise NoNetworkError("Colab's package versions are not here, and no package index answers")
    if done.returncode:
        raise RuntimeError(f"pip install {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")


def site_packages(python: Path) -> Path:
    """Where the environment of `python` keeps its packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.check_output([python, "-c", code], text=True).strip())


def expose(names: list[str], folder: Path, site: Path) -> None:
    """Let the environment with `site` import the packages installed here and what they need, nothing else."""
    folder.mkdir()
    for distribution in with_requirements(names):
        for entry in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "")}:
            source = Path(distribution.locate_file(entry))
            if source.exists() and entry != "__pycache__" and not (folder / entry).exists():
                (folder / entry).symlink_to(source)
    # A .pth line comes after the environment's own packages, so Colab's versions win.
    (site / "torch-of-the-course.pth").write_text(f"{folder}\n")


def with_requirements(names: list[str]) -> list[importlib.metadata.Distribution]:
    """The installed distributions of these names and, recursively, those that they require."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        current = waiting.pop().lower().replace("_", "-")
        if current in found:
            continue
        try:
            found[current] = importlib.metadata.distribution(current)
        except importlib.metadata.PackageNotFoundError:
            continue
        needs = map(Requirement, found[current].requires or [])
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return list(found.values())


def published(root: Path, folder: Path) -> str:
    """A git URL that holds the course as it stands in `root`, edits that are not committed included."""
    copy = folder / "published"
    listed = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, subprocess.check_output(listed, text=True).split("\0")):
        if (root / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name)
    identity = ["-c", "user.name=course", "-c", "user.email=course@localhost", "-c", "commit.gpgsign=false"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "The course"]):
        subprocess.run(["git", "-C", str(copy), *identity, *command], check=True, stdout=subprocess.DEVNULL)
    return copy.as_uri()


def colab_kernel(python: Path, folder: Path, repository: str, public: str) -> Path:
    """Write the kernel specification "colab"; gives the folder to put on JUPYTER_PATH.

    Args:
        python: the kernel's.
        folder: an empty one, for the specification.
        repository: the git URL of the course.
        public: the course's public address, which leads to `repository` in this kernel.
    """
    stand_in = folder / "stand-in" / "google" / "colab"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").write_text('"""Stands in for the module that only Colab has."""\n')
    spec = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Colab",
        "language": "python",
        "env": {
            "COURSE_PROFILE": "test",
            # The set-up cell clones the public address; git is told to take it from here.
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{repository}.insteadOf",
            "GIT_CONFIG_VALUE_0": public,
            "PYTHONPATH": str(folder / "stand-in"),
            "PYTHONNOUSERSITE": "1",
            "COLAB_RELEASE_TAG": "stand-in",
        },
    }
    target = folder / "jupyter" / "kernels" / "colab" / "kernel.json"
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(spec))
    return folder / "jupyter"

"""The set-up cell, the same in every notebook, and the course's public address out of pyproject.toml."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TEMPLATE = """\
# Set-up, the same in every notebook: find the course, or fetch it (on Colab, or in an empty folder).
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

REPO = os.environ.get("COURSE_REPO", "ADDRESS")
NEEDED = ["accelerate", "ipywidgets", "matplotlib", "pycrfsuite", "safetensors", "scipy", "snowballstemmer",
          "spacy", "tqdm", "transformers"]

root = next((p for p in [Path.cwd(), *Path.cwd().parents] if (p / "utils" / "course").is_dir()), None)
if root is None:
    root = Path.cwd() / "diffusion-ner-course"
    if not root.exists():
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", REPO, str(root)], check=True)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        packages = ["python-crfsuite" if name == "pycrfsuite" else name for name in missing]
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *packages], check=True)
sys.path.insert(0, str(root))

from utils.course import start

course = start(seed=0)"""


def repository(root: Path = ROOT) -> str:
    """The course's public address, as [project.urls] in pyproject.toml has it.

    Raises:
        ValueError: pyproject.toml has no such line.
    """
    # Python 3.10 has no tomllib; one line is all that is read.
    found = re.search(r'^Repository\s*=\s*"([^"]+)"', (root / "pyproject.toml").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f'{root / "pyproject.toml"} has no line Repository = "https://github.com/<owner>/<repo>"')
    return found.group(1)


def setup_cell(root: Path = ROOT) -> str:
    """The text of the set-up cell with the course's public address in it."""
    return TEMPLATE.replace("ADDRESS", repository(root))

"""Where a notebook runs: profile, device, precision, seeds, and the folders it may use."""

import contextlib
import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
import numpy as np
import torch

from utils.course.plots import STYLE
from utils.device import describe, find_device, find_precision
from utils.files import check_writable, say

PROFILES = ("test", "cpu", "gpu")
T = TypeVar("T")


@dataclass(frozen=True)
class Runtime:
    """What `start` found.

    profile: "test", "cpu" or "gpu"; only sizes depend on it, through `pick`. precision: "no" (fp32), "bf16" or "fp16",
    in the terms of Hugging Face accelerate. root: the checkout of the course. build: an existing folder, not tracked by
    git, for the files that a notebook writes; where the checkout is read-only, one in the home folder.
    """

    profile: str
    device: torch.device
    precision: str
    root: Path
    build: Path

    def pick(self, *, test: T, cpu: T, gpu: T) -> T:
        """The value for this profile: `course.pick(test=50, cpu=800, gpu=5000)`."""
        return {"test": test, "cpu": cpu, "gpu": gpu}[self.profile]


def start(seed: int = 0, repo: str | Path | None = None) -> Runtime:
    """Pick profile, device and precision, seed everything, set the figure style, and print one line.

    Args:
        seed: for python's, numpy's and torch's global generators.
        repo: the checkout; the one that holds this file if None.
    Raises ValueError: COURSE_PROFILE is set to something else than "test", "cpu" or "gpu". OSError: see find_build.
    """
    device = find_device()
    profile, precision = find_profile(device), find_precision(device)
    root = Path(repo).resolve() if repo else Path(__file__).resolve().parents[2]
    build = find_build(root)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (scikit-learn and others draw from the global generator)
    torch.manual_seed(seed)
    plt.rcParams.update(STYLE)
    if profile == "test":  # whose output needs no progress bars; tqdm reads this when it is first imported
        os.environ.setdefault("TQDM_DISABLE", "1")
    version, dtype = torch.__version__.split("+")[0], precision.replace("no", "fp32")
    print(f"Course ready: profile {profile}, {describe(device)}, {dtype}, torch {version}, seed {seed}")
    return Runtime(profile, device, precision, root, build)


def find_build(root: Path) -> Path:
    """root/build; where it cannot be written in, as in a shared checkout, another folder, and a line says so."""
    homes = (os.path.expanduser("~/diffusion-ner-course-build"), f"{tempfile.gettempdir()}/course-build-{os.getpid()}")
    for folder in (root / "build", *map(Path, homes)):
        with contextlib.suppress(OSError):
            check_writable(folder / "file")
            if folder != root / "build":
                say(f"{root / 'build'} cannot be written in; files go to {folder}")
            return folder
    raise OSError(f"neither {root / 'build'} nor {' nor '.join(homes)} can be written in; make one of them writable")


def find_profile(device: torch.device) -> str:
    """COURSE_PROFILE if it is set; else "gpu" on an accelerator and "cpu" elsewhere."""
    profile = os.environ.get("COURSE_PROFILE") or ("cpu" if device.type == "cpu" else "gpu")
    if profile not in PROFILES:
        known = ", ".join(PROFILES)
        raise ValueError(f"COURSE_PROFILE is {profile!r}; it must be one of {known}. Unset it for the course's choice")
    return profile

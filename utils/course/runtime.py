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
from utils.files import ROOT, check_writable, say

PROFILES = ("test", "cpu", "gpu")
T = TypeVar("T")


@dataclass(frozen=True)
class Runtime:
    """What `start` found.

    profile: "test", "cpu" or "gpu"; only sizes depend on it, through `pick`. root: the checkout of the course.
    build: an existing folder, not tracked by git, for the files that a notebook writes; see `find_build`.
    """

    profile: str
    device: torch.device
    root: Path
    build: Path

    def pick(self, *, test: T, cpu: T, gpu: T) -> T:
        """The value for this profile: `course.pick(test=50, cpu=800, gpu=5000)`."""
        return {"test": test, "cpu": cpu, "gpu": gpu}[self.profile]


def start(seed: int = 0) -> Runtime:
    """Pick profile and device, seed python, numpy and torch, set the figure style, and print one line.

    Raises ValueError: COURSE_PROFILE is set to something else than "test", "cpu" or "gpu". OSError: see find_build.
    """
    device = find_device()
    profile, build = find_profile(device), find_build()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (scikit-learn and others draw from the global generator)
    torch.manual_seed(seed)
    plt.rcParams.update(STYLE)
    if profile == "test":  # whose output needs no progress bars; tqdm reads this when it is first imported
        os.environ.setdefault("TQDM_DISABLE", "1")
    version, precision = torch.__version__.split("+")[0], find_precision(device).replace("no", "fp32")
    print(f"Course ready: profile {profile}, {describe(device)}, {precision}, torch {version}, seed {seed}")
    return Runtime(profile, device, ROOT, build)


def find_build() -> Path:
    """ROOT/build; where it cannot be written in, as in a shared checkout, another folder, and a line says so."""
    build = ROOT / "build"
    home = Path(os.path.expanduser("~/diffusion-ner-course-build"))
    temporary = Path(tempfile.gettempdir(), f"course-build-{os.getpid()}")
    for folder in (build, home, temporary):
        with contextlib.suppress(OSError):
            check_writable(folder / "file")
            if folder != build:
                say(f"{build} cannot be written in; files go to {folder}")
            return folder
    raise OSError(f"neither {build} nor {home} nor {temporary} can be written in; make one of them writable")


def find_profile(device: torch.device) -> str:
    """COURSE_PROFILE if it is set; else "gpu" on an accelerator and "cpu" elsewhere."""
    profile = os.environ.get("COURSE_PROFILE") or ("cpu" if device.type == "cpu" else "gpu")
    if profile not in PROFILES:
        raise ValueError(f"COURSE_PROFILE is {profile!r}; unset it, or set it to one of {', '.join(PROFILES)}")
    return profile

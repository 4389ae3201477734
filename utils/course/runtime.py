"""Where a notebook runs: profile, device, precision, seeds, and the folders it may use."""

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from utils.course.plots import use_course_style

PROFILES = ("test", "cpu", "gpu")
PRECISION_NAMES = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}
T = TypeVar("T")


@dataclass(frozen=True)
class Runtime:
    """What `start` found.

    Attributes:
        profile: "test", "cpu" or "gpu"; only sizes depend on it, through `pick`.
        device: the torch device to compute on.
        precision: "no" (fp32), "bf16" or "fp16", in the terms of Hugging Face accelerate.
        root: the checkout of the course.
        build: an existing folder, not tracked by git, for the files that a notebook writes.
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

    Raises:
        ValueError: COURSE_PROFILE is set to something else than "test", "cpu" or "gpu".
    """
    device = find_device()
    profile = find_profile(device)
    precision = find_precision(device)
    root = Path(repo).resolve() if repo else Path(__file__).resolve().parents[2]
    build = root / "build"
    build.mkdir(parents=True, exist_ok=True)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (scikit-learn and others draw from the global generator)
    torch.manual_seed(seed)
    use_course_style()
    if profile == "test":
        # Read by tqdm when it is first imported: a test's output needs no progress bars.
        os.environ.setdefault("TQDM_DISABLE", "1")
    version = torch.__version__.split("+")[0]
    print(
        f"Course ready: profile {profile}, {describe(device)}, {PRECISION_NAMES[precision]}, "
        f"torch {version}, seed {seed}"
    )
    return Runtime(profile, device, precision, root, build)


def find_device(name: str | torch.device | None = None) -> torch.device:
    """The device called `name` ("cpu", "cuda", "cuda:1", "mps"); the first of CUDA, MPS and CPU if None.

    Raises ValueError where there is no such device on this machine.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [kind for kind, there in present.items() if there]
    if name is None:
        return torch.device(found[0])
    if str(name).partition(":")[0] not in found:
        raise ValueError(f"no device {str(name)!r} on this machine; choose one of {', '.join(found)}")
    return torch.device(name)


def find_profile(device: torch.device) -> str:
    """COURSE_PROFILE if it is set; else "gpu" on an accelerator and "cpu" elsewhere."""
    profile = os.environ.get("COURSE_PROFILE") or ("cpu" if device.type == "cpu" else "gpu")
    if profile not in PROFILES:
        raise ValueError(
            f"COURSE_PROFILE is {profile!r}; it must be one of {', '.join(PROFILES)}. "
            "Unset it to let the course choose."
        )
    return profile


def find_precision(device: torch.device) -> str:
    """The precision that is fast on `device`: "no" (fp32), "bf16" or "fp16".

    A CPU without bf16 matrix instructions runs bf16 slower than fp32, so it stays in fp32.
    """
    if device.type == "cuda":
        # Emulated bf16 (before Ampere, a Colab T4 for example) is slow there; fp16 is not.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and {"amx_bf16", "avx512_bf16"} & cpu_flags():
        return "bf16"
    return "no"


def cpu_flags(path: str | Path = "/proc/cpuinfo") -> set[str]:
    """The processor's feature flags as Linux lists them; empty on other systems."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())


def describe(device: torch.device) -> str:
    """The device in a few words: "2 CPU cores", or the name of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    # A container or a batch system may allow fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{cores} CPU core{'s' if cores > 1 else ''}"


def peak_memory_mib(pid: int | str = "self") -> float | None:
    """The most memory (resident, in MiB) that a process has held so far; None where there is no /proc."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    kib = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), None)
    return None if kib is None else int(kib) / 1024

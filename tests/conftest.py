"""What every test shares: the small profile, a fixed number of threads, the folders."""

import os
from pathlib import Path

# Before anything of the course is imported: it reads the profile once.
os.environ.setdefault("COURSE_PROFILE", "test")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

# More threads than this gain nothing on tensors as small as the tests', and more than cores cost a lot.
torch.set_num_threads(min(2, os.cpu_count() or 1))

# The same examples in every run, and no time limit for one: a busy machine must not fail a right answer.
hypothesis.settings.register_profile("course", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("course")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data_root() -> Path:
    """What the repository itself carries: small image set, checkpoints, reference statistics."""
    return ROOT / "data"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whichever tests ran before it."""
    torch.manual_seed(0)

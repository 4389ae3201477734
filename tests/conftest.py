"""What every test shares: the small profile, a fixed number of threads, the folders."""

import functools
import http.server
import os
import signal
import threading
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

# As a terminal has them: what runs in the background or under nohup ignores these, and so would tests that send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

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


@pytest.fixture
def serve(monkeypatch):
    """serve(Handler, **options) runs a web server in this process until the test ends, and gives its address.

    A handler that waits for `self.server.released` is let go then.
    """
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # a machine's proxy must not come between
    running = []

    def start(handler: type, **options) -> str:
        quiet = type("Quiet", (handler,), {"log_message": lambda *_: None})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, **options))
        server.released, server.daemon_threads = threading.Event(), True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in running:
        server.released.set()
        server.shutdown()
        server.server_close()

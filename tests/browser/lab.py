"""A JupyterLab server of its own on a free port, and Chromium looking at it."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# No sandbox, so that it starts as root in a container; nothing that looks for a network by itself.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_browser() -> str | None:
    """The path of an installed Chromium or Chrome; None if there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


@contextlib.contextmanager
def jupyterlab(folder: Path, scratch: Path) -> Iterator[tuple[str, str]]:
    """Serve `folder` with JupyterLab; gives its address and token, and ends it with all its kernels.

    Args:
        folder: what JupyterLab shows; notebooks in it may be changed.
        scratch: an empty folder for settings, so that those of the person at this machine play no part.

    Raises:
        RuntimeError: the server ended, or did not answer within a minute; its log is in the message.
    """
    port, token = free_port(), secrets.token_hex(16)
    log = scratch / "jupyterlab.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    # Ends by itself some time after the tests were killed and could not end it.
    command += ["--MappingKernelManager.cull_idle_timeout=600", "--ServerApp.shutdown_no_activity_timeout=900"]
    with log.open("w") as stream:
        server = subprocess.Popen(command, env=settings(scratch), stdout=stream, stderr=stream, start_new_session=True)
    try:
        wait_until_up(server, f"http://127.0.0.1:{port}/api/status?token={token}", log)
        yield f"http://127.0.0.1:{port}", token
    finally:
        server.send_signal(signal.SIGTERM)  # shuts the kernels down, then itself
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def free_port() -> int:
    """A port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def settings(scratch: Path) -> dict[str, str]:
    """The environment for a JupyterLab that asks no questions and keeps every cell in the page."""
    tracker = scratch / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text(json.dumps({"windowingMode": "none"}))
    page = scratch / "config" / "labconfig" / "page_config.json"
    page.parent.mkdir(parents=True)
    no_questions = {"@jupyterlab/apputils-extension:announcements": True}
    page.write_text(json.dumps({"disabledExtensions": no_questions}))
    return {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(scratch / "config"),
        "JUPYTER_DATA_DIR": str(scratch / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(scratch / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(scratch / "workspaces"),
        "COURSE_PROFILE": "test",
    }


def wait_until_up(server: subprocess.Popen, address: str, log: Path, seconds: float = 60) -> None:
    """Return once `address` answers; RuntimeError with the log if the server does not get there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start within {seconds} s:\n{log.read_text()[-4000:]}")

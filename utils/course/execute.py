"""Run a notebook in a kernel of this same Python, whether or not a kernel is installed by name."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from utils.course.runtime import peak_memory_mib


class FailedCell(Exception):
    """A cell raised, or the kernel died; the message names notebook and cell and holds the traceback."""


class _ThisPython(KernelSpecManager):
    """Knows one kernel: the Python that runs this program."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        launcher = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
        # A kernel's own notices (that its port is open to this machine, for one) are no news here.
        argv = [sys.executable, *launcher, "--log-level=ERROR"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


def execute(
    notebook: NotebookNode, name: str, folder: Path, profile: str, after_cell: Callable[[], None] = lambda: None
) -> tuple[float, float | None]:
    """Run every cell, in place.

    Args:
        notebook: gets the outputs.
        name: for messages.
        folder: the kernel's working directory.
        profile: what COURSE_PROFILE is set to in the kernel.
        after_cell: called after each cell, for a progress bar.

    Returns:
        Seconds, with the start of the kernel, and the most memory that the kernel's process held, in MiB
        (VmHWM in Linux's /proc; processes that it starts are not counted; None on other systems).

    Raises:
        FailedCell: see there. The outputs up to the failure are in the notebook.
    """
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=_ThisPython())
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=None,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
    )
    began = time.perf_counter()
    # The manager is ours, so nbclient would leave its kernel running: with five notebooks, five kernels in memory.
    with client.setup_kernel(cleanup_kc=True, env=os.environ | {"COURSE_PROFILE": profile}):
        for k, cell in enumerate(notebook.cells):
            try:
                client.execute_cell(cell, k)
            except (CellExecutionError, DeadKernelError) as error:
                raise FailedCell(f"{name}, cell {k} ({cell.id}):\n\n{cell.source}\n\n{error}") from error
            after_cell()
        seconds = time.perf_counter() - began
        return seconds, peak_memory_mib(manager.provisioner.pid)

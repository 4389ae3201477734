"""Build the course's notebooks: `python notebooks/build.py 01 04`, or all of them.

notebooks/src/NN_name.py is converted, executed, cleaned, and written to notebooks/NN_name.ipynb; what its cell tagged
`picture` drew goes to data/pictures/NN.png (with --out: into that folder).
"""

import argparse
import base64
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from notebooks.convert import ROOT, SETUP, clean, convert, repository, source_sha256
from notebooks.pictures import save_picture
from utils.course.runtime import PROFILES
from utils.files import write_atomically


class FailedCell(Exception):
    """A cell raised, or the kernel died; the message names notebook and cell and holds the traceback."""


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the command line in the checkout `root`; 0 if all went well, else 1."""
    options = parse(arguments)
    folder = options.out or root / "notebooks"
    try:
        if options.set_repo is not None:
            set_repo(options.set_repo, root)
        sources = find_sources(root, options.numbers)
        if options.check:
            stale = [why for source in sources if (why := why_stale(source, folder / f"{source.stem}.ipynb"))]
            print("\n".join(stale) or f"{len(sources)} notebooks agree with their sources")
            return 1 if stale else 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.summary:
        print_summary([folder / f"{source.stem}.ipynb" for source in sources])
        return 0
    return build_all(sources, folder, options)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python notebooks/build.py", description=__doc__)
    add = parser.add_argument
    add("numbers", nargs="*", metavar="NN", help="notebooks to build, e.g. 01 04; all if none is given")
    add("--out", type=Path, metavar="DIR", help="write the executed notebooks there, not to notebooks/")
    add("--profile", choices=PROFILES, default="cpu", help="sizes; another than cpu needs --out (default: cpu)")
    add("--figures", type=Path, metavar="DIR", help="also write every picture as DIR/NN_cell_k.png")
    add("--prose", action="store_true", help="only the text has changed: keep the outputs, execute nothing")
    add("--check", action="store_true", help="build nothing; fail if a notebook is not of its current source")
    add("--summary", action="store_true", help="build nothing; print time and memory of the built notebooks")
    add("--set-repo", metavar="URL", help="make this the course's public address; implies --prose")
    options = parser.parse_args(arguments)
    options.prose |= options.set_repo is not None
    if not (options.check or options.summary or options.prose) and options.profile != "cpu" and options.out is None:
        parser.error(f"--profile {options.profile} needs --out DIR: notebooks/ holds those of the cpu profile")
    return options


def find_sources(root: Path, numbers: list[str]) -> list[Path]:
    """The sources of those notebooks, or of all, in order. Raises ValueError where no source has a number."""
    sources = sorted((root / "notebooks" / "src").glob("[0-9][0-9]_*.py"))
    known = [source.name[:2] for source in sources]
    for number in numbers:
        if number not in known:
            raise ValueError(f"there is no notebook {number!r}; there are: {', '.join(known) or 'none'}")
    return [source for source in sources if not numbers or source.name[:2] in numbers]


def build_all(sources: list[Path], folder: Path, options: argparse.Namespace) -> int:
    """Build each; one that fails is reported and the others are still built."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = options.out or folder.parent / "data" / "pictures"
    built = []
    for source in sources:
        target = folder / f"{source.stem}.ipynb"
        try:
            notebook = refresh_prose(source, target) if options.prose else build(source, options.profile)
            save_picture(notebook, pictures / f"{source.name[:2]}.png")
        except (FailedCell, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        nbformat.validate(notebook)
        write_atomically(target, nbformat.writes(notebook) + "\n")
        built.append(target)
        if options.figures:
            save_figures(notebook, source.name[:2], options.figures)
    print_summary(built)
    print(f"{len(built)} of {len(sources)} notebooks written to {folder}")
    return 0 if len(built) == len(sources) else 1


def build(source: Path, profile: str) -> NotebookNode:
    """One notebook, executed and cleaned; see `execute` for what it raises."""
    # Source and hash are read before the run: an edit during the run then shows as a stale notebook.
    notebook, sha256 = convert(source), source_sha256(source)
    began = time.perf_counter()
    memory = execute(notebook, source.stem, source.parents[1], profile)
    seconds = round(time.perf_counter() - began)
    clean(notebook)
    notebook.metadata.course = NotebookNode(
        source_sha256=sha256, profile=profile, seconds=seconds, peak_memory_mib=memory and round(memory)
    )
    return notebook


def set_repo(url: str, root: Path) -> None:
    """Put another public address into README.md and, last, pyproject.toml, from where notebooks have it.

    Raises:
        ValueError: `url` is not https://github.com/<owner>/<repository>.
    """
    if not re.fullmatch(r"https://github\.com/[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+(?<!\.git)", url):
        raise ValueError(f"{url!r} is not an address of the form https://github.com/<owner>/<repository>")
    old, new = (address.removeprefix("https://github.com/") for address in (repository(root), url))
    for path in (root / "README.md", root / "pyproject.toml"):
        # The end after it: owner/repo must not match inside owner/repo-two.
        text = re.sub(rf"(github\.com/|/github/){re.escape(old)}(?![\w-])", rf"\g<1>{new}", path.read_text("utf-8"))
        write_atomically(path, text)


# -- Execution -----------------------------------------------------------------------------------------------


class ThisPython(KernelSpecManager):
    """Knows one kernel, the Python that runs this program, whether or not a kernel is installed by name."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        # A kernel's own notices (that its port is open to this machine, for one) are no news here.
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


def execute(notebook: NotebookNode, name: str, folder: Path, profile: str) -> float | None:
    """Run every cell, in place, in a kernel with working directory `folder` and COURSE_PROFILE set to `profile`.

    Returns:
        The most memory that the kernel's process held, in MiB (VmHWM in Linux's /proc; processes that it
        starts are not counted; None on other systems).

    Raises:
        FailedCell: see there. The outputs up to the failure are in the notebook.
    """
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisPython())
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, km=manager, resources=place, record_timing=False, store_widget_state=False)
    print(f"executing {name} on the {profile} profile", flush=True)
    env = os.environ | {"COURSE_PROFILE": profile}
    if data := os.environ.get("COURSE_DATA"):  # the kernel's folder is not the one that a relative path starts from
        env["COURSE_DATA"] = os.path.abspath(os.path.expanduser(data))
    # The manager is ours, so nbclient would leave its kernel running: with five notebooks, five kernels in memory.
    with client.setup_kernel(cleanup_kc=True, env=env):
        for k, cell in enumerate(tqdm(notebook.cells, desc=name, unit="cell", disable=None)):
            try:
                client.execute_cell(cell, k)
            except (CellExecutionError, DeadKernelError) as error:
                raise FailedCell(f"{name}, cell {k} ({cell.id}):\n\n{cell.source}\n\n{error}") from error
        return peak_memory_mib(manager.provisioner.pid)


def refresh_prose(source: Path, built: Path) -> NotebookNode:
    """The notebook of `source` with the outputs, the times and the profile of `built`.

    Raises:
        ValueError: `built` is missing, or a code cell has changed, so that the notebook has to be executed.
            What `convert` puts before the set-up cell's own lines may have changed: it only finds the course,
            and has tests of its own.
    """
    if not built.exists():
        raise ValueError(f"{built.name} is missing; build it first")
    old, new = nbformat.read(built, as_version=4), convert(source)
    old_code, new_code = ([cell for cell in book.cells if cell.cell_type == "code"] for book in (old, new))
    if lesson(old_code) != lesson(new_code):
        raise ValueError(f"code in src/{source.name} changed since {built.name} was run; build it without --prose")
    for was, now in zip(old_code, new_code):
        now.outputs, now.execution_count = was.outputs, was.execution_count
    new.metadata.course = {**old.metadata.course, "source_sha256": source_sha256(source)}
    return new


def lesson(cells: list[NotebookNode]) -> list[str]:
    """What is executed, of the set-up cell only the notebook's own lines, which come after those of every notebook."""
    last = SETUP.splitlines()[-1]
    return [cell.source.rpartition(last)[2 if "setup" in cell.metadata.get("tags", ()) else 0 :] for cell in cells]


def why_stale(source: Path, built: Path) -> str | None:
    """Why `built` is not the notebook of `source`; None if it is."""
    rebuild = f"run: python notebooks/build.py {source.name[:2]}"
    if not built.exists():
        return f"{built.name} is missing; {rebuild}"
    notebook = nbformat.read(built, as_version=4)
    course = notebook.metadata.get("course", {})
    if course.get("source_sha256") != source_sha256(source):
        return f"{built.name} was built from another version of src/{source.name}; {rebuild}"
    if course.get("profile") != "cpu":
        return f"{built.name} was run on the {course.get('profile')!r} profile, not on 'cpu'; {rebuild}"
    now, then = ([(c.id, c.cell_type, c.source) for c in book.cells] for book in (convert(source), notebook))
    return None if now == then else f"{built.name} was edited by hand, or the build was; {rebuild}"


def save_figures(notebook: NotebookNode, number: str, folder: Path) -> None:
    """Every PNG output as folder/NN_cell_k.png, to be looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, cell in enumerate(notebook.cells):
        pictures = [o.data["image/png"] for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
        for k, picture in enumerate(pictures):
            (folder / f"{number}_{index:03d}_{k}.png").write_bytes(base64.b64decode(picture))


def peak_memory_mib(pid: int | str = "self") -> float | None:
    """The most memory (resident, in MiB) that a process has held so far; None where there is no /proc."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    kib = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), None)
    return None if kib is None else int(kib) / 1024


def print_summary(paths: list[Path]) -> None:
    """A table of the notebooks: seconds and peak memory as their metadata have them, and size."""
    print(f"{'notebook':<28}{'profile':>8}{'seconds':>9}{'peak MiB':>10}{'size kB':>9}")
    for path in paths:
        if not path.exists():
            print(f"{path.stem:<28}    not built")
            continue
        course = nbformat.read(path, as_version=4).metadata.course
        size, memory = round(path.stat().st_size / 1000), course.peak_memory_mib or "-"
        print(f"{path.stem:<28}{course.profile:>8}{course.seconds:>9}{memory:>10}{size:>9}")
    print("Seconds with the start of the kernel; peak MiB is the kernel process's resident memory (VmHWM).")


if __name__ == "__main__":
    sys.exit(main())

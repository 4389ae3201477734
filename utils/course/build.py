"""Build the course's notebooks: `python -m utils.course.build --help`.

notebooks/src/NN_name.py is converted, executed, cleaned, and written to notebooks/NN_name.ipynb.
"""

import argparse
import base64
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from tqdm import tqdm

from utils.course.convert import clean, convert, source_sha256
from utils.course.execute import FailedCell, execute
from utils.course.prose import refresh_prose
from utils.course.runtime import PROFILES
from utils.course.set_repo import set_repo
from utils.course.setup_cell import ROOT, setup_cell
from utils.files import write_atomically

SETUP_CELL = setup_cell()


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the command line in the checkout `root`; 0 if all went well, else 1."""
    options = parse(arguments)
    if options.setup_cell:
        print(setup_cell(root))
        return 0
    try:
        if options.set_repo:
            print("\n".join(f"changed {path.relative_to(root)}" for path in set_repo(options.set_repo, root)))
            return 0
        sources = find_sources(root, options.numbers)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.check:
        return report_stale(sources, root)
    if not options.summary:
        return build_all(sources, root, options)
    print_summary([built_path(source, options.out or root / "notebooks") for source in sources])
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m utils.course.build", description=__doc__)
    add = parser.add_argument
    add("numbers", nargs="*", metavar="NN", help="notebooks to build, e.g. 01 04; all if none is given")
    add("--out", type=Path, metavar="DIR", help="write the executed notebooks there, not to notebooks/")
    add("--profile", choices=PROFILES, default="cpu", help="sizes; another than cpu needs --out (default: cpu)")
    add("--figures", type=Path, metavar="DIR", help="also write every picture as DIR/NN_cell_k.png")
    add("--prose", action="store_true", help="only the text has changed: keep the outputs, execute nothing")
    add("--check", action="store_true", help="build nothing; fail if a notebook is not of its current source")
    add("--summary", action="store_true", help="build nothing; print time and memory of the built notebooks")
    add("--setup-cell", action="store_true", help="print the set-up cell that every notebook has")
    add("--set-repo", metavar="URL", help="write the course's public address into badges and set-up cells")
    options = parser.parse_args(arguments)
    building = not (options.check or options.summary or options.setup_cell or options.set_repo)
    if building and options.profile != "cpu" and options.out is None:
        parser.error(f"--profile {options.profile} needs --out DIR: notebooks/ holds those of the cpu profile")
    return options


def find_sources(root: Path, numbers: list[str]) -> list[Path]:
    """The sources of those notebooks, or of all, in order.

    Raises:
        ValueError: no source has that number; the message lists those there are.
    """
    sources = sorted((root / "notebooks" / "src").glob("[0-9][0-9]_*.py"))
    known = [source.name[:2] for source in sources]
    for number in numbers:
        if number not in known:
            raise ValueError(f"there is no notebook {number!r}; there are: {', '.join(known) or 'none'}")
    return [source for source in sources if not numbers or source.name[:2] in numbers]


def built_path(source: Path, folder: Path) -> Path:
    return folder / f"{source.stem}.ipynb"


def build_all(sources: list[Path], root: Path, options: argparse.Namespace) -> int:
    """Build each; one that fails is reported and the others are still built."""
    folder = options.out or root / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    built, failed = [], 0
    for source in sources:
        target = built_path(source, folder)
        try:
            notebook = refresh_prose(source, target) if options.prose else build(source, root, options.profile)
        except (FailedCell, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        write(notebook, target)
        built.append(target)
        if options.figures:
            save_figures(notebook, source.name[:2], options.figures)
    print_summary(built)
    print(f"{len(built)} of {len(sources)} notebooks written to {folder}")
    return 1 if failed else 0


def build(source: Path, root: Path, profile: str) -> NotebookNode:
    """One notebook, executed and cleaned; see `execute` for what it raises."""
    notebook = convert(source)
    # The hash is taken before the run: an edit during the run then shows as a stale notebook.
    sha256 = source_sha256(source)
    bar = tqdm(total=len(notebook.cells), desc=source.stem, unit="cell", disable=not sys.stderr.isatty())
    if not sys.stderr.isatty():
        print(f"executing {source.stem} on the {profile} profile", flush=True)  # a log has no progress bar
    with bar:
        seconds, memory = execute(notebook, source.stem, root / "notebooks", profile, bar.update)
    clean(notebook)
    notebook.metadata.course = NotebookNode(
        source_sha256=sha256,
        profile=profile,
        seconds=round(seconds),
        peak_memory_mib=None if memory is None else round(memory),
    )
    return notebook


def write(notebook: NotebookNode, path: Path) -> None:
    """Write the notebook whole or not at all."""
    nbformat.validate(notebook)
    write_atomically(path, nbformat.writes(notebook) + "\n")


def save_figures(notebook: NotebookNode, number: str, folder: Path) -> None:
    """Every PNG output as folder/NN_cell_k.png, to be looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, cell in enumerate(notebook.cells):
        pictures = [o.data["image/png"] for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
        for k, picture in enumerate(pictures):
            (folder / f"{number}_{index:03d}_{k}.png").write_bytes(base64.b64decode(picture))


def report_stale(sources: list[Path], root: Path) -> int:
    """Name each built notebook that is not of its current source; 1 if there is one."""
    stale = [name for source in sources if (name := why_stale(source, built_path(source, root / "notebooks")))]
    for line in stale:
        print(line)
    if not stale:
        print(f"{len(sources)} notebooks agree with their sources")
    return 1 if stale else 0


def why_stale(source: Path, built: Path) -> str | None:
    """Why `built` is not the notebook of `source`; None if it is."""
    rebuild = f"run: python -m utils.course.build {source.name[:2]}"
    if not built.exists():
        return f"{built.name} is missing; {rebuild}"
    notebook = nbformat.read(built, as_version=4)
    course = notebook.metadata.get("course", {})
    if course.get("source_sha256") != source_sha256(source):
        return f"{built.name} was built from another version of src/{source.name}; {rebuild}"
    if course.get("profile") != "cpu":
        return f"{built.name} was run on the {course.get('profile')!r} profile, not on 'cpu'; {rebuild}"
    cells = [(cell.id, cell.cell_type, cell.source) for cell in notebook.cells]
    if cells != [(cell.id, cell.cell_type, cell.source) for cell in convert(source).cells]:
        return f"{built.name} was edited by hand; edit src/{source.name} and {rebuild}"
    return None


def print_summary(paths: list[Path]) -> None:
    """A table of the notebooks: seconds and peak memory as their metadata have them, and size."""
    print(f"{'notebook':<28}{'profile':>8}{'seconds':>9}{'peak MiB':>10}{'size kB':>9}")
    for path in paths:
        if not path.exists():
            print(f"{path.stem:<28}    not built")
            continue
        course = nbformat.read(path, as_version=4).metadata.course
        memory = course.peak_memory_mib if course.peak_memory_mib is not None else "-"
        size = round(path.stat().st_size / 1000)
        print(f"{path.stem:<28}{course.profile:>8}{course.seconds:>9}{memory:>10}{size:>9}")
    print("Seconds with the start of the kernel; peak MiB is the kernel process's resident memory (VmHWM).")


if __name__ == "__main__":
    sys.exit(main())

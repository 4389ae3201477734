"""Files written whole or not at all, checked downloads, and weights and training states that cannot run code.

torch, safetensors and tqdm are imported where they are used: text code reads and writes files without them.
"""

import contextlib
import errno
import glob
import hashlib
import io
import os
import pickle
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).resolve().parents[1]  # the checkout of the course


class TrainingDiverged(RuntimeError):
    """The loss or the gradient is no finite number any more."""


def stream_seed(seed: int, *use: str | int) -> int:
    """A seed for one use of randomness, so that no two draw the same numbers; 32 bits, as torch's CPU generator."""
    return int.from_bytes(hashlib.sha256(repr((seed, *use)).encode()).digest()[:4], "little")


def check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError where the value is none of the choices; the message lists them."""
    if value not in choices:
        raise ValueError(f"unknown {what} {value!r}; choose one of {', '.join(choices)}")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def say(text: str) -> None:
    """Print a line; letters that the console has no code for come out as escapes, not as an error."""
    code = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(code, "backslashreplace").decode(code))


def write_atomically(path: str | Path, content: str | bytes | Callable[[Path], Any]) -> None:
    """Write a temporary file, force it to the disk, and rename it to `path`, whose folder is made if need be.

    Where anything fails (a full disk, an interrupt) the old file stays, and an OSError says so. A link's target is
    replaced. Into a pipe, a device and the file that this program prints to the content goes once it is complete.

    content: bytes, a text (in UTF-8, line ends as they are), or what writes the file: content(temporary file).
    """
    if isinstance(content, str):
        content = content.encode("utf-8")
    write = content if callable(content) else lambda place: place.write_bytes(content)
    if (stream := _stream_at(path)) is not None:
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part"
            write(part)
            print(end="", flush=True)  # what was printed before comes before
            with open(stream, "wb", closefd=stream not in (1, 2)) as target:
                target.write(part.read_bytes())
        return
    path = Path(os.path.realpath(path))
    try:
        with _replacing(path) as part:
            write(part)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError, Pillow without a number
        kept = "the old file stays as it was" if path.exists() else "nothing was written"
        if getattr(error, "errno", None) in (None, errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            kept += ". Is the disk full?"
        raise OSError(f"could not save {path.name}: {error}; {kept}") from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, to be written, which then takes its place; it goes where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(path)
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # there is no old file, or a file system that knows no modes
            shutil.copymode(path, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _stream_at(path: str | Path) -> str | Path | int | None:
    """What to open where `path` is to be written into, not replaced: a pipe, a device, or 1 or 2; else None."""
    for printed in (1, 2):  # /dev/stdout, say, or a log that the shell writes
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(printed)):
                return printed
    return None if os.path.isfile(path) or os.path.isdir(path) or not os.path.exists(path) else path


def _part_of(path: Path) -> Path:
    """This process's temporary file beside `path`; those of processes that were killed go, where that is known."""
    space = Path("/proc/self/ns/pid")  # Linux; containers that share a folder may have processes of one number
    begin = f".{path.name}.{stream_seed(0, platform.node(), space.stat().st_ino if space.exists() else 0):x}-"
    for part in path.parent.glob(f"{glob.escape(begin)}*.part") if space.exists() else ():
        if not Path("/proc", part.stem.removeprefix(begin)).exists():
            part.unlink(missing_ok=True)
    return path.with_name(f"{begin}{os.getpid()}.part")


def check_writable(path: str | Path) -> None:
    """Raise OSError unless a file can be written at `path`, whose folder is made: asked before the work, not after."""
    if _stream_at(path) is not None:
        return
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(f"a folder of the name {path.name} is there")
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        reason = "that is no folder" if isinstance(error, (FileExistsError, NotADirectoryError)) else error
        raise OSError(f"{path.name} cannot be written in {path.parent}: {reason}; choose another place") from error


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other trainings out of this folder, else OSError that names the other one; it ends with the process."""
    if os.name == "nt":  # which has no such lock
        yield
        return
    import fcntl

    path = folder / ".lock"
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink == 0:  # the other one has just removed it: it locks nothing
                raise BlockingIOError
        except BlockingIOError:
            file.seek(0)
            other = file.read() or "another process"
            raise OSError(f"{other} trains in {folder}; wait for it, stop it, or use another folder") from None
        except OSError:  # this file system has no locks
            pass
        file.truncate(0)
        print(f"process {os.getpid()} on {platform.node()}", end="", file=file, flush=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def save_weights(path: str | Path, network: "nn.Module") -> None:
    """Write a network's weights and buffers as safetensors."""
    from safetensors.torch import save  # not save_file, which replaces a pipe and has errors of its own

    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_atomically(path, save(tensors, metadata={"format": "pt"}))


def load_weights(path: str | Path, network: "nn.Module") -> None:
    """Put saved weights into a network; ValueError: no such file, a damaged one, or one of another network."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); get a whole copy, or train again") from error
    except RuntimeError as error:
        raise ValueError(f"{path} belongs to another network: {error}") from error


def save_state(path: str | Path, state: Any) -> None:
    """Write a training state: tensors, numbers, strings, lists and dictionaries of them."""
    import torch

    write_atomically(path, lambda part: torch.save(state, part))


def load_state(path: str | Path, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a training state, tensors on the CPU; `settings` have to be what it holds under that name.

    Raises ValueError: a file cut short or damaged, of other settings, or a pickle that wants to run code (none is run).
    """
    import torch

    path = Path(path)
    content = io.BytesIO(path.read_bytes())  # FileNotFoundError comes out as it is
    try:
        state = torch.load(content, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        seen = "is cut short or damaged"
        if isinstance(error, pickle.UnpicklingError):
            seen = "was refused: it is not a training state of tensors and numbers, and loading it could run code"
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ValueError(f"{path.name} {seen}. Delete it to start anew, or use a whole copy. ({reason})") from error
    name, saved = f"{path.name} in {path.parent.name}", state.get("settings") if isinstance(state, dict) else None
    if settings and not isinstance(saved, dict):
        raise ValueError(f"{name} is no training state of this course: it holds no settings; use another folder")
    for key, here in (settings or {}).items():
        if (there := saved.get(key, "not set")) != here:
            seen = f"was trained with {key} {there!r}, but this training has {here!r}"
            raise ValueError(f"{name} {seen}; use another folder, or the same settings")
    return state


def find_copy(files: Sequence[str], *folders: str) -> Path | None:
    """Where all these files are: in one of `folders` in COURSE_DATA, or in it itself if it has such a name; else None,
    with a warning where COURSE_DATA is set."""
    if not (named := os.environ.get("COURSE_DATA")):
        return None
    home = Path(os.path.expanduser(named))
    for place in [home / folder for folder in folders] + [home for folder in folders if home.name == Path(folder).name]:
        if all((place / file).exists() for file in files):
            return place
    lacks = f"has no {', '.join(files)} in {' or '.join(folder or '.' for folder in folders)}"
    warnings.warn(f"COURSE_DATA={named} {lacks if home.is_dir() else 'is no folder'}; passed over", stacklevel=3)
    return None


def download(url: str, path: Path, sha256: str, timeout: float = 20) -> None:
    """Fetch a file with a progress bar, check it, and only then put it at `path`.

    OSError, and nothing left behind: no network or no answer for `timeout` seconds, broken off, or another SHA-256.
    """
    import http.client
    import urllib.request

    from tqdm.auto import tqdm

    with _replacing(path) as part:
        try:
            with urllib.request.urlopen(url, timeout=timeout) as answer, open(part, "wb") as file:
                total = int(answer.headers.get("Content-Length", 0))
                with tqdm.wrapattr(file, "write", total=total, desc=path.name, leave=False, disable=None) as watched:
                    shutil.copyfileobj(answer, watched)
        except http.client.HTTPException as error:
            raise OSError(f"{url} broke off ({error}); try again") from error
        if total and (size := part.stat().st_size) != total:
            raise OSError(f"{url} broke off after {size:,} of {total:,} bytes; try again")
        if (seen := sha256_of(part)) != sha256:
            raise OSError(f"{url} has SHA-256 {seen}, expected {sha256}; it was not kept")

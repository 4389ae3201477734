"""Files written whole or not at all, and training states that are never able to run code.

A training state is a torch file that is only ever read with `weights_only=True`.
"""

import glob
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError


def write_atomically(path: str | Path, content: str | bytes | Callable[[Path], Any]) -> None:
    """Write a temporary file, force it to the disk, and rename it to `path`, whose folder is made if need be.

    Where anything fails (a full disk, an interrupt) the temporary file goes and the old file stays.

    Args:
        content: bytes, a text (in UTF-8, line ends as they are), or what writes the file: content(temporary file).
    Raises:
        OSError: that says so.
    """
    path = Path(path)
    if isinstance(content, str):
        content = content.encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    _remove_left_over(path)
    try:
        part.write_bytes(content) if isinstance(content, bytes) else content(part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors report a full disk as errors of their own.
        kept = "the old file stays as it was" if path.exists() else "nothing was written"
        raise OSError(f"could not save {path.name}: {error}; {kept}. Is the disk full?") from error
    finally:
        part.unlink(missing_ok=True)


def _remove_left_over(path: Path) -> None:
    """Delete the temporary files of processes that were killed while they saved `path`, not those of living ones."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        writer = part.name.split(".")[-2]
        if writer.isdecimal() and not _is_alive(int(writer)):
            part.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    """Whether that process runs; where it cannot be known without ending it (Windows), yes."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write a training state: tensors, numbers, strings, lists and dictionaries of them."""
    write_atomically(path, lambda part: torch.save(state, part))


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a training state, tensors on the CPU.

    Raises ValueError where the file is cut short or damaged, or is a pickle that wants to run code: such a
    file is refused without running any of it.
    """
    path = Path(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path.name} was refused: it is not a training state of tensors and numbers, and loading it could "
            f"run code. Use a checkpoint made by this course, or delete it to start anew. ({_first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path.name} is cut short or damaged: {_first_line(error)}. Delete it to start anew, or put back "
            "a whole copy."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

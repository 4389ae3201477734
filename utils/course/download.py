"""Fetch a public file: with a progress bar, checked against its SHA-256, and all of it or nothing."""

import hashlib
import http.client
import os
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path

from tqdm.auto import tqdm


def download(
    url: str, path: Path, sha256: str, timeout: float = 20, unpack: Callable[[Path], bytes] = Path.read_bytes
) -> None:
    """Fetch a file, check it, and only then put it at `path`; with a progress bar.

    Args:
        sha256: of what `unpack` returns: the bytes of the file, unless told otherwise.
        timeout: seconds without an answer until it counts as broken off.
    Raises:
        OSError: no network, the download breaks off, or the SHA-256 is another one. Nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        _fetch(url, part, timeout, path.name)
        try:
            seen = hashlib.sha256(unpack(part)).hexdigest()
        except (EOFError, zlib.error) as error:
            raise OSError(f"{url} did not arrive whole ({error}); try again") from error
        if seen != sha256:
            raise OSError(f"{url} has SHA-256 {seen}, expected {sha256}; it was not kept")
        os.replace(part, path)
    except http.client.HTTPException as error:
        raise OSError(f"{url} broke off ({error}); try again") from error
    finally:
        part.unlink(missing_ok=True)


def _fetch(url: str, part: Path, timeout: float, name: str) -> None:
    with urllib.request.urlopen(url, timeout=timeout) as answer, open(part, "wb") as file:
        total = int(answer.headers.get("Content-Length", 0))
        with tqdm(total=total, unit="B", unit_scale=True, desc=name, leave=False) as bar:
            while block := answer.read(1 << 16):
                file.write(block)
                bar.update(len(block))
    if total and part.stat().st_size != total:
        raise OSError(f"{url} broke off after {part.stat().st_size:,} of {total:,} bytes; try again")

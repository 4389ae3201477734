"""Write the course's public address into the badges and set-up cells: `make set-repo URL=...`."""

import re
from pathlib import Path

from utils.course.convert import source_sha256
from utils.course.setup_cell import repository
from utils.files import write_atomically

ADDRESS = re.compile(r"https://github\.com/([A-Za-z0-9][A-Za-z0-9-]*)/([A-Za-z0-9._-]+)")


def set_repo(url: str, root: Path) -> list[Path]:
    """Replace the old address, and the same owner and repository in Colab's badges, by the new one.

    Built notebooks keep their outputs: nothing that they show depends on the address. Where one was of its
    current source before, the hash that it stores is renewed; a stale notebook stays stale.

    Returns:
        The files that changed. pyproject.toml, which says what the old address is, comes last, so that a
        run that was interrupted can be run again.

    Raises:
        ValueError: `url` is not https://github.com/<owner>/<repository>, or pyproject.toml has no address.
    """
    new = _owner_and_name(url)
    # The hosts before it and the end after it: owner/repo must not match inside owner/repo-two.
    old = re.compile(
        r"(?<=github\.com/)SLUG(?![\w-])|(?<=research\.google\.com/github/)SLUG(?![\w-])".replace(
            "SLUG", re.escape(_owner_and_name(repository(root)))
        )
    )
    notebooks = root / "notebooks"
    changed = []
    for source in sorted((notebooks / "src").glob("*.py")):
        old_sha256 = source_sha256(source)
        changed += _rewrite(source, lambda text: old.sub(new, text))
        new_sha256, built = source_sha256(source), notebooks / f"{source.stem}.ipynb"

        def renew(text: str, hashes: tuple[str, str] = (old_sha256, new_sha256)) -> str:
            return old.sub(new, text).replace(*hashes)

        changed += _rewrite(built, renew)
    changed += _rewrite(root / "README.md", lambda text: old.sub(new, text))
    return changed + _rewrite(root / "pyproject.toml", lambda text: old.sub(new, text))


def _owner_and_name(url: str) -> str:
    found = ADDRESS.fullmatch(url)
    if found is None or url.endswith(".git"):
        raise ValueError(f"{url!r} is not an address of the form https://github.com/<owner>/<repository>")
    return f"{found.group(1)}/{found.group(2)}"


def _rewrite(path: Path, change) -> list[Path]:
    """Put changed text in place of a file's, whole or not at all; [path] if there was a change."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    if (new_text := change(text)) == text:
        return []
    write_atomically(path, new_text)
    return [path]

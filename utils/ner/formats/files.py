"""Files of text, read with care: every error names file, line number, the line and what was expected."""

from collections.abc import Iterator
from pathlib import Path


class FormatError(ValueError):
    """A line that cannot be read."""

    def __init__(self, path: Path, number: int, line: str, expected: str) -> None:
        shown = line if len(line) <= 200 else line[:200] + "..."
        super().__init__(f"{path}, line {number}: {shown!r}; expected {expected}")
        self.path, self.number, self.line = path, number, line


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) of a UTF-8 file; lines end in LF or CRLF, which are cut off.

    Only LF ends a line: characters such as U+2028 are kept inside it, since corpora hold them in tokens.

    Raises:
        FormatError: bytes that are no UTF-8, or a NUL byte.
    """
    path = Path(path)
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, raw in enumerate(lines, 1):
        raw = raw.removesuffix(b"\r")
        if b"\0" in raw:
            shown = raw.decode("utf-8", "backslashreplace")
            raise FormatError(path, number, shown, "text without NUL bytes (is the file UTF-16, or no text at all?)")
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError as error:
            shown = raw.decode("utf-8", "backslashreplace")
            expected = f"UTF-8, but byte {error.start + 1} of the line is 0x{raw[error.start]:02x}"
            raise FormatError(path, number, shown, expected) from error

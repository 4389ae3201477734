"""Readers and writers of CoNLL columns, JSON lines, PubTator and brat; what they share, and each by its name."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from utils.ner.sentence import Sentence


class FormatError(ValueError):
    """A line that cannot be read; the message names file, line number, the line and what was expected."""

    def __init__(self, path: Path, number: int, line: str, expected: str) -> None:
        shown = line if len(line) <= 200 else line[:200] + "..."
        super().__init__(f"{path}, line {number}: {shown!r}; expected {expected}")
        self.path, self.number, self.line = path, number, line


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) of a UTF-8 file; lines end in LF or CRLF, which are cut off.

    Only LF ends a line: characters such as U+2028 are kept inside it, since corpora hold them in tokens.

    Raises FormatError: bytes that are no UTF-8, or a NUL byte.
    """
    path = Path(path)
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, raw in enumerate(lines, 1):
        raw = raw.removesuffix(b"\r")
        line = raw.decode("utf-8", "backslashreplace")
        if b"\0" in raw:
            raise FormatError(path, number, line, "text without NUL bytes (is the file UTF-16, or no text at all?)")
        with located(path, number, line, "UTF-8"):
            raw.decode("utf-8")
        yield number, line


@contextmanager
def located(path: Path, number: int, line: str, expected: str) -> Iterator[None]:
    """Whatever goes wrong inside while the line is taken apart becomes a `FormatError` that says where it stands."""
    try:
        yield
    except FormatError:
        raise
    except KeyError as error:
        raise FormatError(path, number, line, f"{expected}, but {error} is missing") from error
    except (ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise FormatError(path, number, line, f"{expected} ({error})") from error


def one_line(text: str) -> str:
    """The text with each line end as a space, as formats with a mention a line write it."""
    return text.replace("\r", " ").replace("\n", " ")


# The formats need what stands above.
from utils.ner.formats.brat import read_brat, write_brat  # noqa: E402
from utils.ner.formats.conll import read_conll, write_conll  # noqa: E402
from utils.ner.formats.jsonl import read_jsonl, write_jsonl  # noqa: E402
from utils.ner.formats.pubtator import read_pubtator, write_pubtator  # noqa: E402

READERS: dict[str, Callable[[Path], list[Sentence]]]
READERS = {"conll": read_conll, "jsonl": read_jsonl, "pubtator": read_pubtator, "brat": read_brat}
WRITERS: dict[str, Callable[[Sequence[Sentence], Path], None]]
WRITERS = {"conll": write_conll, "jsonl": write_jsonl, "pubtator": write_pubtator, "brat": write_brat}
ENDINGS = {".jsonl": "jsonl", ".pubtator": "pubtator", ".ann": "brat"}


def format_of(path: str | Path) -> str:
    """The format a file's name speaks of: .jsonl, .pubtator (also .pubtator.txt), a folder is brat; else "conll"."""
    path = Path(path)
    if path.is_dir():
        return "brat"
    return next((ENDINGS[ending] for ending in reversed(path.suffixes) if ending in ENDINGS), "conll")


def read_sentences(path: str | Path, form: str = "auto") -> list[Sentence]:
    """The sentences of a file (or of a brat folder) with their entities.

    form: "conll", "jsonl", "pubtator", "brat", or "auto" to go by the name.
    Raises ValueError: an unknown format; FormatError: a line that cannot be read. OSError: no such file.
    """
    form = format_of(path) if form == "auto" else form
    if form not in READERS:
        raise ValueError(f"unknown format {form!r}; choose one of auto, {', '.join(READERS)}")
    return READERS[form](Path(path))

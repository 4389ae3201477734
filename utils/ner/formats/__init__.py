"""Readers and writers of CoNLL columns, JSON lines, PubTator and brat; what they share, and each by its name."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from utils.files import check_choice
from utils.ner.sentence import Entity, Sentence

MISMATCHES = ("refuse", "skip")  # what becomes of an entity that is not the text at its offsets


class FormatError(ValueError):
    """A line that cannot be read; the message names file, line number, the line and what was expected."""

    def __init__(self, path: str | Path, number: int, line: str, expected: str) -> None:
        shown = line if len(line) <= 200 else line[:200] + "..."
        super().__init__(f"{path}, line {number}: {shown!r}; expected {expected}")


def read_lines(path: str | Path, content: bytes | None = None) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) of a UTF-8 file, without line ends (LF, CRLF, CR) and byte-order marks before a line.

    U+2028 and its like end no line, since corpora hold them in tokens. `content`: the file's bytes, if at hand.
    Raises FormatError: bytes that are no UTF-8, or a NUL byte.
    """
    lines = re.split(rb"\r*\n|\r", Path(path).read_bytes() if content is None else content)
    if not lines[-1]:
        lines.pop()
    for number, raw in enumerate(lines, 1):
        raw = raw.removeprefix(b"\xef\xbb\xbf")  # in mid-file too, where files were put together
        line = raw.decode("utf-8", "backslashreplace")
        if b"\0" in raw:
            raise FormatError(path, number, line, "text without NUL bytes (is the file UTF-16, or no text at all?)")
        with located(path, number, line, "UTF-8"):
            raw.decode("utf-8")
        yield number, line


@contextmanager
def located(path: str | Path, number: int, line: str, expected: str) -> Iterator[None]:
    """Whatever goes wrong inside while the line is taken apart becomes a `FormatError` that says where it stands."""
    try:
        yield
    except FormatError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise FormatError(path, number, line, f"{expected} ({why})") from error


def one_line(text: str) -> str:
    """The text with each line end as a space, as formats with a mention a line write it."""
    return text.replace("\r", " ").replace("\n", " ")


def stands_there(entity: Entity, surface: str, text: str, mismatch: str, *place: str | Path | int) -> bool:
    """Whether the entity lies in the text, as `surface` unless that is empty; one with white space around it may.

    mismatch: where it does not, a FormatError ("refuse"), or False and a warning ("skip"). place: path, number, line.
    """
    check_choice("mismatch", mismatch, MISMATCHES)
    there = one_line(entity.cut(text))
    if entity.end <= len(text) and there.strip() and one_line(surface) in ("", there, there.strip()):
        return True
    if mismatch == "refuse":
        expected = f'the text at {entity.start}:{entity.end}, which is {there!r}; mismatch="skip" leaves it out'
        raise FormatError(*place, expected)
    warnings.warn(f"{place[0]}, line {place[1]}: {surface!r} left out, the text there is {there!r}", stacklevel=3)
    return False


def check_tokens(sentence: Sentence) -> None:
    """ValueError for a sentence that a format without tokens would change, or that has a NUL."""
    if "\0" in sentence.text or sentence.entities != Sentence(sentence.text, None, sentence.entities).entities:
        raise ValueError(f"sentence {sentence.id!r} has a NUL, or an entity that begins or ends with white space")


def say_lost(path: str | Path, lost: Mapping[str, int]) -> None:
    """A warning that counts by kind the entities that a file cannot hold; none where there are none."""
    if kinds := ", ".join(f"{count} {kind}" for kind, count in lost.items() if count):
        warnings.warn(f"{path}: entities left out, since the format cannot hold them: {kinds}", stacklevel=3)


# The formats need what stands above.
from utils.ner.formats.brat import read_brat, write_brat  # noqa: E402
from utils.ner.formats.conll import read_conll, write_conll  # noqa: E402
from utils.ner.formats.jsonl import read_jsonl, write_jsonl  # noqa: E402
from utils.ner.formats.pubtator import read_pubtator, write_pubtator  # noqa: E402

READERS = {"conll": read_conll, "jsonl": read_jsonl, "pubtator": read_pubtator, "brat": read_brat}
WRITERS = {"conll": write_conll, "jsonl": write_jsonl, "pubtator": write_pubtator, "brat": write_brat}
ENDINGS = {".jsonl": "jsonl", ".json": "jsonl", ".pubtator": "pubtator", ".ann": "brat"}


def format_of(path: str | Path) -> str:
    """The format that a name speaks of: .json(l), .pubtator (also .pubtator.txt), .ann or a folder; else "conll"."""
    found = (ENDINGS[ending] for ending in reversed(Path(path).suffixes) if ending in ENDINGS)
    return "brat" if Path(path).is_dir() else next(found, "conll")


def read_sentences(path: str | Path, form: str = "auto", mismatch: str = "refuse") -> list[Sentence]:
    """The sentences of a file (or of a brat folder) with their entities.

    form: "conll", "jsonl", "pubtator", "brat", or "auto" to go by the name.
    mismatch: an entity that is not the text at its offsets is an error ("refuse"), or left out with a warning ("skip").
    Raises ValueError: an unknown format; FormatError: a line that cannot be read. OSError: no such file.
    """
    check_choice("format", form, ["auto", *READERS])
    form = format_of(path) if form == "auto" else form
    return read_conll(path) if form == "conll" else READERS[form](path, mismatch)

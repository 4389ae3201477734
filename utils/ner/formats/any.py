"""Reading a file in whichever format it is, and writing entities in one that is asked for by name."""

from collections.abc import Callable, Sequence
from pathlib import Path

from utils.ner.formats.brat import read_brat, write_brat
from utils.ner.formats.conll import read_conll, write_conll
from utils.ner.formats.jsonl import read_jsonl, write_jsonl
from utils.ner.formats.pubtator import read_pubtator, write_pubtator
from utils.ner.types import Sentence

READERS: dict[str, Callable[[Path], list[Sentence]]] = {
    "conll": read_conll,
    "jsonl": read_jsonl,
    "pubtator": read_pubtator,
    "brat": read_brat,
}
WRITERS: dict[str, Callable[[Sequence[Sentence], Path], None]] = {
    "conll": write_conll,
    "jsonl": write_jsonl,
    "pubtator": write_pubtator,
    "brat": write_brat,
}
ENDINGS = {".jsonl": "jsonl", ".pubtator": "pubtator", ".ann": "brat"}


def format_of(path: str | Path) -> str:
    """The format a file's name speaks of: .jsonl, .pubtator (also .pubtator.txt), a folder is brat; else "conll"."""
    path = Path(path)
    if path.is_dir():
        return "brat"
    return next((ENDINGS[ending] for ending in reversed(path.suffixes) if ending in ENDINGS), "conll")


def read_sentences(path: str | Path, form: str = "auto") -> list[Sentence]:
    """The sentences of a file (or of a brat folder) with their entities.

    Args:
        form: "conll", "jsonl", "pubtator", "brat", or "auto" to go by the name.
    Raises:
        ValueError: an unknown format; FormatError: a line that cannot be read. OSError: no such file.
    """
    form = format_of(path) if form == "auto" else form
    if form not in READERS:
        raise ValueError(f"unknown format {form!r}; choose one of auto, {', '.join(READERS)}")
    return READERS[form](Path(path))

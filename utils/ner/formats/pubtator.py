"""PubTator: a title and an abstract, then one line for each mention.

    9949209|t|Genetic mapping of ...
    9949209|a|Chediak-Higashi syndrome is ...
    9949209<tab>89<tab>113<tab>Chediak-Higashi syndrome<tab>Disease<tab>D002609

Offsets count characters from the start of the title; title and abstract are joined by one character, here a line end.
"""

import re
import warnings
from collections.abc import Iterable
from pathlib import Path

from utils.files import write_atomically
from utils.ner.formats import FormatError, located, one_line, read_lines
from utils.ner.sentence import Entity, Sentence

HEAD = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
EXPECTED = "ID, start, end, text and type with tabs between"
MISMATCHES = ("refuse", "skip")


def read_pubtator(path: str | Path, mismatch: str = "refuse") -> list[Sentence]:
    """Each document as one `Sentence` with its id, its text "TITLE\\nABSTRACT". Lines of relations are not kept.

    mismatch: a mention whose text is not the text at its offsets is an error ("refuse"), or left out with a warning
        ("skip").
    Raises FormatError: a line that is neither text nor mention, out of place, or a mismatch.
    """
    if mismatch not in MISMATCHES:
        raise ValueError(f"unknown mismatch {mismatch!r}; choose one of {', '.join(MISMATCHES)}")
    path = Path(path)
    documents: list[tuple[str, str, list[Entity]]] = []  # id, text, entities
    for number, line in read_lines(path):
        if not line.strip():
            continue
        head = HEAD.match(line)
        if head and head[2] == "t":
            documents.append((head[1], head[3], []))
            continue
        if not documents:
            raise FormatError(path, number, line, "a title first, ID|t|TEXT")
        name, text, entities = documents[-1]
        if head:
            if head[1] != name or entities or "\n" in text:
                raise FormatError(path, number, line, f"the abstract of {name} right after its title")
            documents[-1] = name, f"{text}\n{head[3]}" if head[3] else text, entities
        elif mention := _mention(path, number, line, name):
            entity, surface = mention
            there = one_line(entity.cut(text))
            if there == surface and entity.end <= len(text):
                entities.append(entity)
            elif mismatch == "skip":
                message = f"{path}, line {number}: {surface!r} left out, the text there is {there!r}"
                warnings.warn(message, stacklevel=2)
            else:
                expected = f'the text at {entity.start}:{entity.end}, which is {there!r}; mismatch="skip" leaves it out'
                raise FormatError(path, number, line, expected)
    return [Sentence(text, None, entities, name) for name, text, entities in documents]


def _mention(path: Path, number: int, line: str, name: str) -> tuple[Entity, str] | None:
    """The entity of a line and its text there; None for a relation between concepts (ID, kind, concept, concept)."""
    cells = line.split("\t")
    if cells[0] != name or len(cells) < 4:
        raise FormatError(path, number, line, f"{name}, start, end, text and type with tabs between")
    if cells[1][:1].isalpha():
        return None
    with located(path, number, line, EXPECTED):
        return Entity(int(cells[1]), int(cells[2]), cells[4], concept="".join(cells[5:6]).strip()), cells[3]


def write_pubtator(sentences: Iterable[Sentence], path: str | Path) -> None:
    """Each sentence as a document; its first line is the title, its second the abstract, which may be missing.

    Raises ValueError: a sentence without an id, or with a "|", tab or further line end where the format needs them; a
    discontinuous entity, which PubTator cannot hold.
    """
    lines = []
    for sentence in sentences:
        if not sentence.id or any(letter in sentence.id for letter in "|\t\n\r"):
            raise ValueError(f"PubTator needs an id without |, tab and line end, got {sentence.id!r}")
        title, *abstract = sentence.text.split("\n")
        if len(abstract) > 1 or abstract == [""] or any(letter in sentence.text for letter in "\t\r\0"):
            raise ValueError(f"sentence {sentence.id!r} has a tab, NUL or more lines than a title and an abstract")
        lines.append(f"{sentence.id}|t|{title}\n{sentence.id}|a|{''.join(abstract)}\n")
        for entity in sentence.entities:
            if entity.fragments:
                raise ValueError(f"{entity.text!r} of sentence {sentence.id!r} is in pieces; PubTator cannot hold it")
            cells = [sentence.id, entity.start, entity.end, one_line(entity.text), entity.type, entity.concept]
            lines.append("\t".join(map(str, cells)).rstrip("\t") + "\n")
        lines.append("\n")
    write_atomically(path, "".join(lines))

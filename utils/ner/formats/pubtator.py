"""PubTator: a title and an abstract, then one line for each mention.

    9949209|t|Genetic mapping of ...
    9949209|a|Chediak-Higashi syndrome is ...
    9949209<tab>89<tab>113<tab>Chediak-Higashi syndrome<tab>Disease<tab>D002609

Offsets count characters from the start of the title; title and abstract are joined by one character.
"""

import re
import warnings
from collections.abc import Iterable
from pathlib import Path

from utils.files import write_atomically
from utils.ner.formats.files import FormatError, read_lines
from utils.ner.types import Entity, Sentence

HEAD = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
MISMATCHES = ("refuse", "skip")


def read_pubtator(path: str | Path, mismatch: str = "refuse") -> list[Sentence]:
    """Each document as one `Sentence` with its id. Concept ids and lines of relations are not kept.

    Args:
        mismatch: a mention whose text is not the text at its offsets is an error ("refuse"), or left out with a
            warning ("skip").
    Raises:
        FormatError: a line that is neither text nor mention, out of place, or a mismatch.
        ValueError: another word for `mismatch`.
    """
    if mismatch not in MISMATCHES:
        raise ValueError(f"unknown mismatch {mismatch!r}; choose one of {', '.join(MISMATCHES)}")
    path = Path(path)
    documents: list[tuple[str, str, list[Entity]]] = []
    for number, line in read_lines(path):
        if not line.strip():
            continue
        head = HEAD.match(line)
        if head and head[2] == "t":
            documents.append((head[1], head[3], []))
        elif not documents:
            raise FormatError(path, number, line, "a title first, ID|t|TEXT")
        elif head:
            documents[-1] = _with_abstract(path, number, line, documents[-1], head)
        else:
            _add_mention(path, number, line, documents[-1], mismatch)
    return [Sentence(text, None, entities, name) for name, text, entities in documents]


def _with_abstract(path: Path, number: int, line: str, document: tuple, head: re.Match) -> tuple:
    name, title, entities = document
    if head[1] != name or entities:
        raise FormatError(path, number, line, f"the abstract of {name} right after its title")
    return name, f"{title} {head[3]}", entities


def _add_mention(path: Path, number: int, line: str, document: tuple, mismatch: str) -> None:
    name, text, entities = document
    cells = line.split("\t")
    if cells[0] != name or len(cells) < 4:
        raise FormatError(path, number, line, f"{name}, start, end, text and type with tabs between")
    if not cells[1].isdigit():
        return  # a relation between concepts: ID, kind, concept, concept
    try:
        entity = Entity(int(cells[1]), int(cells[2]), cells[4], cells[3])
    except (ValueError, IndexError) as error:
        raise FormatError(path, number, line, f"ID, start, end, text and type with tabs between ({error})") from error
    there = entity.cut(text)
    if there == entity.text:
        entities.append(entity)
    elif mismatch == "skip":
        warnings.warn(f"{path}, line {number}: {entity.text!r} left out, the text there is {there!r}", stacklevel=3)
    else:
        expected = f'the text at {entity.start}:{entity.end}, which is {there!r}; mismatch="skip" leaves it out'
        raise FormatError(path, number, line, expected)


def write_pubtator(sentences: Iterable[Sentence], path: str | Path) -> None:
    """Each sentence as a document whose text is cut at its first space into title and abstract.

    A title of one word keeps every offset right without guessing where a title ends.

    Raises:
        ValueError: a sentence without an id, or with a "|", tab or line end where the format needs them; a
            discontinuous entity, which PubTator cannot hold.
    """
    lines = []
    for sentence in sentences:
        if not sentence.id or any(letter in sentence.id for letter in "|\t\n\r"):
            raise ValueError(f"PubTator needs an id without |, tab and line end, got {sentence.id!r}")
        if any(letter in sentence.text for letter in "\t\n\r\0"):
            raise ValueError(f"sentence {sentence.id!r} has a tab, line end or NUL; PubTator gives it one line")
        title, space, abstract = sentence.text.partition(" ")
        lines.append(f"{sentence.id}|t|{title}\n")
        lines += [f"{sentence.id}|a|{abstract}\n"] if space else []
        for entity in sentence.entities:
            if entity.fragments:
                raise ValueError(f"{entity.text!r} of sentence {sentence.id!r} is in pieces; PubTator cannot hold it")
            cells = (sentence.id, entity.start, entity.end, entity.text, entity.type)
            lines.append("\t".join(map(str, cells)) + "\n")
        lines.append("\n")
    write_atomically(path, "".join(lines))

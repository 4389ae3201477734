"""brat standoff: NAME.txt holds the text, NAME.ann the entities, one a line.

    T1<tab>Disease 0 11<tab>hepatitis B
    T2<tab>Disease 0 9;16 17<tab>hepatitis C

Offsets count characters of the .txt as it is, line ends included; a ";" divides the pieces of a discontinuous mention.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from utils.files import write_atomically
from utils.ner.formats import FormatError, located, one_line, read_lines
from utils.ner.sentence import Entity, Sentence

ENTITY = re.compile(r"T\S+\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\t(.*)", re.DOTALL)
EXPECTED = "T1, tab, TYPE START END (more pieces after ;), tab, text"
OTHER = tuple("RE*AMN#")  # relations, events, equivalences, attributes, modifications, normalisations, notes


def read_brat(path: str | Path) -> list[Sentence]:
    """Each document as one `Sentence` whose id is the file's name; only entities are kept, fragments included.

    path: a folder, of which every .txt is read in the order of names, or one .txt. A .txt without .ann has no entities.
    Raises FormatError: a line of an .ann in another form, or an entity that does not fit the text.
    """
    path = Path(path)
    texts = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not texts:
        raise ValueError(f"no .txt in {path}; brat keeps each text in NAME.txt and its entities in NAME.ann")
    return [_document(text) for text in texts]


def _document(path: Path) -> Sentence:
    for _ in read_lines(path):  # which looks for broken bytes; the text is the file as it is, so that offsets hold
        pass
    text, notes, entities = path.read_bytes().decode("utf-8-sig"), path.with_suffix(".ann"), []
    for number, line in read_lines(notes) if notes.exists() else ():
        if line.strip() and not line.startswith(OTHER):
            with located(notes, number, line, EXPECTED):
                entities.append(_entity(notes, number, line, text))
    return Sentence(text, None, entities, path.stem)


def _entity(path: Path, number: int, line: str, text: str) -> Entity:
    match = ENTITY.fullmatch(line)
    if not match:
        raise FormatError(path, number, line, EXPECTED)
    kind, offsets, surface = match.groups()
    pieces = tuple(tuple(map(int, piece.split())) for piece in offsets.split(";"))
    # In the .ann a line end inside a mention is written as a space; the entity holds what the text has.
    entity = Entity(pieces[0][0], pieces[-1][1], kind, "", pieces if len(pieces) > 1 else ())
    there = one_line(entity.cut(text))
    if entity.end > len(text) or there != surface:
        raise FormatError(path, number, line, f"the text at these offsets, which is {there!r}")
    return entity


def write_brat(sentences: Iterable[Sentence], folder: str | Path) -> None:
    """One .txt and one .ann for each sentence, named by its id. ValueError where an id cannot be a file's name."""
    seen = set()
    for sentence in sentences:
        if not re.fullmatch(r"[\w.-]+", sentence.id) or sentence.id.startswith(".") or sentence.id in seen:
            raise ValueError(f"brat needs ids of letters, digits, . _ - that come once; got {sentence.id!r}")
        seen.add(sentence.id)
        lines = []
        for number, entity in enumerate(sentence.entities, 1):
            offsets = ";".join(f"{start} {end}" for start, end in entity.pieces)
            lines.append(f"T{number}\t{entity.type} {offsets}\t{one_line(entity.text)}\n")
        write_atomically(Path(folder) / f"{sentence.id}.txt", sentence.text)
        write_atomically(Path(folder) / f"{sentence.id}.ann", "".join(lines))

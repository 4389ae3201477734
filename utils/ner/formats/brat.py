"""brat standoff: NAME.txt holds the text, NAME.ann the entities, one a line.

    T1<tab>Disease 0 11<tab>hepatitis B
    T2<tab>Disease 0 9;16 17<tab>hepatitis C
    N1<tab>Reference T1 MESH:D006509<tab>hepatitis B

Offsets count characters of the .txt as it is, line ends included; a ";" divides the pieces of a discontinuous mention.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from utils.files import write_atomically
from utils.ner.formats import check_tokens, located, one_line, read_lines, stands_there
from utils.ner.sentence import Entity, Sentence

ENTITY = re.compile(r"(T\S+)\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\t(.*)", re.DOTALL)
CONCEPT = re.compile(r"N\S+\tReference (T\S+) (\S+)(?:\t.*)?", re.DOTALL)
# Relations, events, equivalences, attributes, modifications, other normalisations, notes.
OTHER = re.compile(r"([REAMN#]\d\S*|\*)\t(?!\S+ \d+ \d+)")
NOTES = (".ann", ".a1")
EXPECTED = "T1, tab, TYPE START END (more pieces after ;), tab, text"


def read_brat(path: str | Path, mismatch: str = "refuse") -> list[Sentence]:
    """Each document as one `Sentence` whose id is the file's name; only entities are kept, with their concepts.

    path: one .txt (without .ann, or BioNLP's .a1, it has no entities), its .ann, or a folder of them, read by name.
    mismatch: as in `read_sentences`.
    Raises FormatError: a line in another form, or an entity that does not fit. ValueError: no .txt, or .ann without it.
    """
    path = Path(path)
    if not path.is_dir():
        return [_document(path.with_suffix(".txt") if path.suffix in NOTES else path, mismatch)]
    texts = sorted(path.glob("*.txt"))
    alone = sorted({notes.with_suffix(".txt") for notes in path.iterdir() if notes.suffix in NOTES} - {*texts})
    if alone or not texts:
        missing = f"{alone[0].name}, only its annotation," if alone else ".txt"
        raise ValueError(f"no {missing} in {path}; brat keeps each text in NAME.txt and its entities in NAME.ann")
    return [_document(text, mismatch) for text in texts]


def _document(path: Path, mismatch: str) -> Sentence:
    list(read_lines(path))  # which looks for broken bytes; the text is the file as it is, so that offsets hold
    text, entities = path.read_bytes().decode("utf-8-sig"), {}
    for notes in filter(Path.exists, map(path.with_suffix, NOTES)):
        for number, line in sorted(read_lines(notes), key=lambda pair: pair[1].startswith("N")):  # after what they name
            concept = CONCEPT.fullmatch(line)
            if concept and (known := entities.get(concept[1])):
                entities[concept[1]] = replace(known, concept="|".join(filter(None, (known.concept, concept[2]))))
            elif line.strip() and not OTHER.match(line):
                with located(notes, number, line, EXPECTED):
                    name, entity, surface = _entity(line, text)
                    if name in entities:
                        raise ValueError(f"{name} comes twice")
                    if stands_there(entity, surface, text, mismatch, notes, number, line):
                        entities[name] = entity
    return Sentence(text, None, entities.values(), path.stem)


def _entity(line: str, text: str) -> tuple[str, Entity, str]:
    """The entity of a line, its name there, and the text it is said to have."""
    if not (match := ENTITY.fullmatch(line)):
        raise ValueError("this is another form")
    name, kind, offsets, surface = match.groups()
    edges = list(map(int, re.findall(r"\d+", offsets)))
    pieces = list(zip(edges[::2], edges[1::2]))
    entity = Entity(min(edges), max(edges), kind, "", tuple(pieces))
    # brat puts a space between pieces, also where they touch or stand in another order.
    for order in (pieces, sorted(pieces)):
        if one_line(surface) == one_line(" ".join(text[start:end] for start, end in order)):
            surface = entity.cut(text)
    return name, entity, surface


def write_brat(sentences: Iterable[Sentence], folder: str | Path) -> None:
    """One .txt and one .ann for each sentence, named by its id. Tokens, scores and documents' names are not kept.

    Raises ValueError: an id that cannot be a file's name or comes twice, a text with NUL or a byte-order mark, a
    concept with white space; or the folder holds other pairs, with which these would be mixed. Nothing is written then.
    """
    folder, files = Path(folder), {}
    for sentence in sentences:
        check_tokens(sentence)
        if not re.fullmatch(r"[\w-][\w.-]*", sentence.id) or f"{sentence.id}.txt" in files:
            raise ValueError(f"brat needs ids of letters, digits, . _ - that come once; got {sentence.id!r}")
        if sentence.text.startswith("\ufeff") or any(" " in entity.concept for entity in sentence.entities):
            raise ValueError(f"sentence {sentence.id!r} begins with a byte-order mark, or a concept of it has a space")
        lines = []
        for number, entity in enumerate(sentence.entities, 1):
            offsets, text = ";".join(f"{start} {end}" for start, end in entity.pieces), one_line(entity.text)
            lines.append(f"T{number}\t{entity.type} {offsets}\t{text}\n")
            if entity.concept:
                lines.append(f"N{number}\tReference T{number} {entity.concept}\t{text}\n")
        files |= {f"{sentence.id}.txt": sentence.text.encode(), f"{sentence.id}.ann": "".join(lines).encode()}
    old = [path.name for path in sorted(folder.glob("*")) if path.suffix in (".txt", *NOTES) and path.name not in files]
    if old:
        raise ValueError(f"{folder} holds {old[0]}, with which these pairs would be mixed; choose an empty folder")
    for name, content in files.items():
        write_atomically(folder / name, content)

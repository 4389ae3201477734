"""JSON lines, a sentence each: {"id", "document", "text", "entities": [{"start", "end", "type", "text"}], "tokens"}."""

import json
from collections.abc import Iterable
from pathlib import Path

from utils.files import write_atomically
from utils.ner.formats import located, read_lines
from utils.ner.sentence import Entity, Sentence

EXPECTED = 'JSON like {"text": "...", "entities": [{"start": 0, "end": 4, "type": "...", "text": "..."}]}'


def read_jsonl(path: str | Path) -> list[Sentence]:
    """The sentences of a JSONL file; only "text" must be there. Empty lines are left out.

    "tokens" is a list of [start, end]; without it the text is cut by `tokenize`. An entity may have "fragments", a
    list of [start, end], and a "concept". Without "id" the line number is the id; without "document" none is known.

    Raises FormatError: a line that is no such object, or whose offsets do not fit its text.
    """
    path = Path(path)
    sentences = []
    for number, line in read_lines(path):
        if line.strip():
            with located(path, number, line, EXPECTED):
                sentences.append(_sentence(json.loads(line), number))
    return sentences


def _sentence(record: dict, number: int) -> Sentence:
    if not isinstance(record, dict) or not isinstance(record["text"], str):
        raise TypeError("the line or its text has another type")
    id, document = record.get("id"), record.get("document")
    return Sentence(
        record["text"],
        record.get("tokens"),
        [_entity(entity) for entity in record.get("entities", ())],
        str(number if id is None else id),
        "" if document is None else str(document),
    )


def _entity(record: dict) -> Entity:
    fragments = tuple(map(tuple, record.get("fragments", ())))
    text, concept = record.get("text", ""), record.get("concept", "")
    return Entity(record["start"], record["end"], record["type"], text, fragments, concept)


def write_jsonl(sentences: Iterable[Sentence], path: str | Path) -> None:
    """Everything a `Sentence` has; `read_jsonl` gives equal sentences back."""
    lines = []
    for sentence in sentences:
        record = {"id": sentence.id} | ({"document": sentence.document} if sentence.document else {})
        record |= {"text": sentence.text, "tokens": [token[:2] for token in sentence.tokens]}
        record |= {"entities": [_record(entity) for entity in sentence.entities]}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines))


def _record(entity: Entity) -> dict:
    record = {"start": entity.start, "end": entity.end, "type": entity.type, "text": entity.text}
    more = {"fragments": entity.fragments, "concept": entity.concept}
    return record | {name: value for name, value in more.items() if value}

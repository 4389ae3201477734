"""JSON lines, a sentence each: {"id", "document", "text", "entities": [{"start", "end", "type", "text"}], "tokens"}."""

import json
from collections.abc import Iterable
from pathlib import Path

from utils.files import write_atomically
from utils.ner.formats.files import FormatError, read_lines
from utils.ner.types import Entity, Sentence

EXPECTED = '{"text": "...", "entities": [{"start": 0, "end": 4, "type": "...", "text": "..."}]}'


def read_jsonl(path: str | Path) -> list[Sentence]:
    """The sentences of a JSONL file; only "text" must be there. Empty lines are left out.

    "tokens" is a list of [start, end]; without it the text is cut by `tokenize`. An entity may have "fragments", a
    list of [start, end]. Without "id" the line number is the id; without "document" none is known.

    Raises:
        FormatError: a line that is no such object, or whose offsets do not fit its text.
    """
    path = Path(path)
    sentences = []
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            sentences.append(_sentence(json.loads(line), number))
        except json.JSONDecodeError as error:
            raise FormatError(path, number, line, f"JSON like {EXPECTED} ({error})") from error
        except KeyError as error:
            raise FormatError(path, number, line, f"an object like {EXPECTED}, but {error} is missing") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise FormatError(path, number, line, f"an object like {EXPECTED} ({error})") from error
    return sentences


def _sentence(record: dict, number: int) -> Sentence:
    if not isinstance(record, dict) or not isinstance(record["text"], str):
        raise TypeError("the line or its text has another type")
    entities = [
        Entity(one["start"], one["end"], one["type"], one.get("text", ""), tuple(map(tuple, one.get("fragments", ()))))
        for one in record.get("entities", ())
    ]
    id, document = str(record.get("id", number)), str(record.get("document", ""))
    return Sentence(record["text"], record.get("tokens"), entities, id, document)


def write_jsonl(sentences: Iterable[Sentence], path: str | Path) -> None:
    """Everything a `Sentence` has; `read_jsonl` gives equal sentences back."""
    lines = []
    for sentence in sentences:
        entities = []
        for entity in sentence.entities:
            record = {"start": entity.start, "end": entity.end, "type": entity.type, "text": entity.text}
            entities.append(record | ({"fragments": entity.fragments} if entity.fragments else {}))
        record = {"id": sentence.id} | ({"document": sentence.document} if sentence.document else {})
        record |= {"text": sentence.text, "tokens": [token[:2] for token in sentence.tokens]}
        lines.append(json.dumps(record | {"entities": entities}, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines))

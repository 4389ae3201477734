"""JSON lines, a sentence each: {"id", "document", "text", "entities": [{"start", "end", "type", "text"}], "tokens"}.

What annotation tools export is read as well, a record a line or all in one array: spans with a label (Prodigy, spaCy,
doccano), [start, end, label], spaCy's [text, {"entities": ...}], and Label Studio's tasks.
"""

import json
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from utils.files import write_atomically
from utils.ner.formats import FormatError, located, read_lines, stands_there
from utils.ner.sentence import Entity, Sentence

EXPECTED = 'JSON like {"text": "...", "entities": [{"start": 0, "end": 4, "type": "...", "text": "..."}]}'
KEYS = ("entities", "spans", "label", "labels", "annotations", "completions", "result", "ents")  # that hold mentions
NAMES = dict(label="type", labels="type", entity_group="type", begin="start", start_offset="start", end_offset="end")
LOOKS = re.compile(r"entit|span|label|annot|mention|highlight|predict|draft|\bner|(?<!pos_)tags?$", re.I)
# Under any key, however deep: an object of a list that has a place; two numbers and a string; one tag a token.
DEEP = re.compile(
    r'[\[,] ?\{[^{}]*"(start|start_offset|begin|offsets?|span)": |\[\d+, \d+, "|\["[^"]*", \d+, \d+[],]'
    r'|"O", "[BSU]-|"[BEILSU]-[^"]+", "O"'
)


def read_jsonl(path: str | Path, mismatch: str = "refuse") -> list[Sentence]:
    """The sentences of a JSONL file; only "text" must be there. Empty lines are left out.

    "tokens" are [start, end], else those of `tokenize`. An entity may have "fragments", a list of [start, end], a
    "concept" and a "score". Without "id" the line number is the id. Labels of the whole text, relations and cancelled
    annotations are not kept; records that an annotator rejected are left out with a warning.

    mismatch: as in `read_sentences`.
    Raises FormatError: a line without a text, with another key that looks like annotation, or offsets that do not fit.
    """
    sentences = []
    for number, line, value in _values(path):
        with located(path, number, line, EXPECTED):
            record = _flat(value)
            if record.get("answer") in ("reject", "ignore"):
                warnings.warn(f"{path}, line {number}: left out, its answer is {record['answer']!r}", stacklevel=2)
                continue
            text, tokens, id, document = map(record.get, ("text", "tokens", "id", "document"))
            place = (text, mismatch, path, number, line)
            kept = [entity for entity, surface in _mentions(record, KEYS) if stands_there(entity, surface, *place)]
            if tokens and isinstance(tokens[0], dict):
                tokens = [(token["start"], token["end"]) for token in tokens]
            id, document = number if id is None else id, "" if document is None else document
            sentences.append(Sentence(text, tokens, kept, str(id), str(document)))
    return sentences


def _values(path: str | Path) -> Iterator[tuple[int, str, Any]]:
    """(line number, rest of the line, value) of each JSON value in a file; of an array of objects each of those."""
    text = "".join(f"{line}\n" for _, line in read_lines(path))
    array, gap, decoder = re.match(r"\s*\[(?=\s*[\[{])", text), re.compile(r"[\s,]*"), json.JSONDecoder()
    place, number, seen = array.end() if array else 0, 1, 0
    while (place := gap.match(text, place).end()) < len(text):
        number, seen = number + text.count("\n", seen, place), place
        line = text[place : text.index("\n", place)]
        if array and line[0] == "]":
            array, place = None, place + 1
            continue
        with located(path, number, line, EXPECTED):
            value, place = decoder.raw_decode(text, place)
        yield number, line, value
    if array:
        raise FormatError(path, number, line, "a ] behind the last record; is the file cut short?")


def _flat(value: Any) -> dict:
    """A record with "text" on top and no key that looks like annotation but would not be read."""
    if isinstance(value, list) and list(map(type, value)) == [str, dict]:
        value = {"text": value[0]} | value[1]
    data = value.get("data", {}) if isinstance(value, dict) else None
    record = value if data is None else (data if isinstance(data, dict) else {"text": data}) | value
    if not isinstance(record, dict) or not isinstance(record["text"], str):
        raise TypeError("the line or its text has another type")
    json.dumps(record, ensure_ascii=False).encode()  # half a character ("\\ud800") fails here, not when it is written
    for key, inside in record.items():
        if key in (*KEYS, "tokens", "sents") or (key in ("predictions", "drafts") and "annotations" in record):
            continue  # predictions and drafts are what the annotator began from
        looks = isinstance(inside, list | dict) and inside and (LOOKS.search(key) or DEEP.search(json.dumps(inside)))
        if looks or key in ("start", "end"):
            raise ValueError(f"the key {key!r} looks like annotation; rename it ({', '.join(KEYS)}) or delete it")
    return record


def _mentions(holder: dict, keys: Iterable[str]) -> Iterator[tuple[Entity, str]]:
    """`_entities` of the mentions under the keys; those of Label Studio are values of results of annotations."""
    for key in keys:
        of_text = key in ("label", "labels") and not isinstance(holder.get(key), list | dict)
        for item in () if of_text else holder.get(key) or ():
            if isinstance(item, list):
                item = dict(zip(("start", "end", "type"), item, strict=True))
            elif not isinstance(item, dict):
                raise TypeError(f"{key!r} holds {item!r}, expected spans")
            if "result" in item:
                yield from () if item.get("was_cancelled") else _mentions(item, ["result"])
            elif "from_id" not in item:  # no relation
                yield from _entities(item.get("value", item))


def _entities(mention: dict) -> Iterator[tuple[Entity, str]]:
    """For each label of a mention the entity and the text that it is said to have, "" where none is."""
    mention = {NAMES[name]: mention[name] for name in NAMES if name in mention} | mention
    concept, score = str(mention.get("concept") or mention.get("kb_id") or ""), mention.get("score")
    more = tuple(mention.get("fragments") or ()), concept, None if score is None else float(score)
    labels = mention["type"] if isinstance(mention["type"], list) else [mention["type"]]
    for label in labels or [""]:  # without any it is refused as an entity
        yield Entity(mention["start"], mention["end"], label, "", *more), mention.get("text") or ""


def write_jsonl(sentences: Iterable[Sentence], path: str | Path) -> None:
    """Everything a `Sentence` has; `read_jsonl` gives equal sentences back."""
    lines = []
    for sentence in sentences:
        record = {"id": sentence.id} | ({"document": sentence.document} if sentence.document else {})
        record |= {"text": sentence.text, "tokens": [token[:2] for token in sentence.tokens]}
        fields = [asdict(entity).items() for entity in sentence.entities]
        record |= {"entities": [{name: value for name, value in own if value not in ("", (), None)} for own in fields]}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines))

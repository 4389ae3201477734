"""PubTator: a title and an abstract, then one line for each mention.

    9949209|t|Genetic mapping of ...
    9949209|a|Chediak-Higashi syndrome is ...
    9949209<tab>89<tab>113<tab>Chediak-Higashi syndrome<tab>Disease<tab>D002609

Offsets count characters from the start of the title; title and abstract are joined by one character, here a line end.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from utils.files import check_choice, write_atomically
from utils.ner.formats import FormatError, check_tokens, located, one_line, read_lines, say_lost, stands_there
from utils.ner.sentence import Entity, Sentence
from utils.ner.tags import ON_LOSS

HEAD = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
RELATION = re.compile(r"[^\t]+\t[A-Za-z][^\t]*\t([^\t]+)\t([^\t]+)(?:\t(?:Novel|No))?\t?")
IDENTIFIER = re.compile(r"(?=.*\d)(?=.*[^\d.-])\S+")  # a word with a digit, but no number


def read_pubtator(path: str | Path, mismatch: str = "refuse") -> list[Sentence]:
    """Each document as one `Sentence` with its id, its text "TITLE\\nABSTRACT". Lines of relations are not kept.

    `mismatch` as in `read_sentences`. Raises FormatError: a line that is no text, mention or relation, or out of place.
    """
    documents: list[tuple[str, str, list[Entity]]] = []  # id, text, entities
    for number, line in read_lines(path):
        if not line.strip():
            continue
        head = HEAD.match(line)
        if len(re.findall(r"\t\d+\t\d+\t", line)) > (not head):
            raise FormatError(path, number, line, "a line end before each mention")
        if head and head[2] == "t":
            documents.append((head[1], head[3], []))
            continue
        if not documents:
            raise FormatError(path, number, line, "a title first, ID|t|TEXT")
        name, text, entities = documents[-1]
        cells, expected = line.split("\t"), f"{name}, start, end, text and type with tabs between"
        if head:
            if head[1] != name or entities or "\n" in text:
                raise FormatError(path, number, line, f"the abstract of {name} right after its title")
            documents[-1] = name, f"{text}\n{head[3]}" if head[3] else text, entities
        elif cells[0] != name:
            raise FormatError(path, number, line, expected)
        elif not _is_relation(line, entities):
            with located(path, number, line, expected):
                entity = Entity(int(cells[1]), int(cells[2]), cells[4], concept="".join(cells[5:6]).strip())
                if stands_there(entity, cells[3], text, mismatch, path, number, line):
                    entities.append(entity)
    return [Sentence(text, None, entities, name) for name, text, entities in documents]


def _is_relation(line: str, entities: list[Entity]) -> bool:
    """Whether a line is ID, kind, concept, concept: a number is a concept only where a mention has it."""
    if not (match := RELATION.fullmatch(line)):
        return False
    known = {concept for entity in entities for concept in re.split(r"[|,;+]", entity.concept)}
    return all(id in known or IDENTIFIER.fullmatch(id) for id in match.groups())


def write_pubtator(sentences: Iterable[Sentence], path: str | Path, on_loss: str = "raise") -> None:
    """Each sentence as a document; its first line is the title, its second the abstract, which may be missing.

    Tokens, scores and documents' names are not kept. Discontinuous entities raise, or with `on_loss="drop"` are left
    out with a warning. Raises ValueError: such an entity, no id, or a "|", tab or line end where the format needs them.
    """
    check_choice("on_loss", on_loss, ON_LOSS)
    lines, lost = [], 0
    for sentence in sentences:
        check_tokens(sentence)
        id, text = sentence.id, sentence.text
        if not re.fullmatch("[^|\t\n\r\0\ufeff]+", id):
            raise ValueError(f"PubTator needs an id without |, tab and line end, got {id!r}")
        if not re.fullmatch("[^\t\r\n]*(\n[^\t\r\n]+)?", text):
            raise ValueError(f"sentence {id!r} has a tab or more lines than a title and an abstract")
        title, _, abstract = text.partition("\n")
        lines.append(f"{id}|t|{title}\n{id}|a|{abstract}\n")
        whole = [entity for entity in sentence.entities if not entity.fragments]
        lost += len(sentence.entities) - len(whole)
        if lost and on_loss == "raise":
            raise ValueError(f'a mention in {id!r} is in pieces; PubTator cannot hold it, on_loss="drop" leaves it out')
        for entity in whole:
            cells = [id, entity.start, entity.end, one_line(entity.text), entity.type, entity.concept]
            lines.append("\t".join(map(str, cells)).rstrip("\t") + "\n")
        lines.append("\n")
    say_lost(path, {"discontinuous": lost})
    write_atomically(path, "".join(lines))

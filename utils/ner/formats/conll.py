"""CoNLL columns: one token a line with its tag or tags, an empty line after each sentence."""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from utils.files import write_atomically
from utils.ner.formats import FormatError, located, read_lines, say_lost
from utils.ner.sentence import Sentence
from utils.ner.tags import TagError, lost_to_tags, tags_to_spans, to_layers

# "# key = value" as CoNLL-U has it, and where documents begin or end; other lines that begin with # may be tokens.
DOCUMENT = re.compile(r"-DOCSTART-|# newdoc( |$)|# ?begin document( |$)")
COMMENT = re.compile(r"# [\w.:-]+( id)? =( |$)|# newpar( |$)|# ?end document( |$)")


def read_conll(path: str | Path, token: int = 0, tags: int | Sequence[int] = -1) -> list[Sentence]:
    """The sentences of a file of columns, with whatever entity types it has.

    Tabs divide the columns where a line has one, otherwise spaces; each line has as many as the first. Empty lines, or
    lines of white space, divide sentences, whose text is their tokens with one space between. "-DOCSTART-" (or
    "# newdoc") begins a document, known by the name in brackets (or behind "=") or by its number; "# sent_id = ..." is
    the sentence's id, else 1, 2, 3, ...; other comments are left out. Tags are BIO, or BIOES or BILOU where one begins
    with E-, S-, L- or U-; one that continues nothing begins an entity, with a warning.

    token: the column of the tokens, counted from 0; negative numbers count from the end.
    tags: the column of the tags, or several that hold nested entities in layers.
    Raises FormatError: a line that cannot be read. OSError: no such file.
    """
    wanted = [token, tags] if isinstance(tags, int) else [token, *tags]
    blocks = list(_blocks(path, wanted))
    prefixes = {tag[:2] for *_, rows in blocks for _, _, cells in rows for tag in cells[1:]}
    scheme = "BIOES" if prefixes & {"E-", "S-", "L-", "U-"} else "BIO"
    sentences, repaired = [], []
    for place, (document, name, rows) in enumerate(blocks, 1):
        words, *layers = zip(*(cells for _, _, cells in rows))
        spans = set()
        for layer in layers:
            try:
                found, whole = (set(tags_to_spans(layer, scheme, orphan)) for orphan in ("repair", "drop"))
            except TagError as error:
                number, line, _ = rows[error.index]
                raise FormatError(path, number, line, f"{error.expected} ({error.problem})") from error
            repaired += [rows[start][0] for start, _, _ in sorted(found - whole)]
            spans |= found
        number, line, _ = rows[0]
        with located(path, number, line, "a sentence whose tokens and entities fit"):
            sentences.append(Sentence.from_words(words, spans, name or str(place), document))
    if repaired:
        taken = f"{len(repaired)} tags that continue nothing were taken as the beginning of an entity"
        warnings.warn(f"{path}: {taken}, the first in line {repaired[0]}; is a B- missing there?", stacklevel=2)
    return sentences


def _blocks(path: str | Path, wanted: list[int]) -> Iterator[tuple[str, str, list[tuple[int, str, list[str]]]]]:
    """Of each sentence document and id, "" where not known, and (line number, line, wanted columns) of its rows."""
    lines = list(read_lines(path))
    tabs = {"\t" in line for _, line in lines if line.strip() and not line.startswith(("#", "-DOCSTART-"))} == {True}
    documents, document, name, rows, first = 0, "", "", [], None
    for number, line in [*lines, (len(lines) + 1, "")]:
        begins = DOCUMENT.match(line)
        if rows and (begins or not line.strip()):
            yield document, name, rows
            name, rows = "", []
        if begins:
            documents += 1
            given = re.search(r"\(([^)]+)\)|= *(.+)", line)
            document = (given[1] or given[2]) if given else str(documents)
        elif COMMENT.match(line) or (tabs and line.startswith("#") and "\t" not in line):
            key, _, value = line[1:].partition("=")
            name = value.strip() if key.strip() == "sent_id" else name
        elif line.strip():
            columns = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
            if len(columns) < 2:
                raise FormatError(path, number, line, "at least 2 columns (token and tag), got 1")
            first = first or (len(columns), number)
            if len(columns) != first[0]:
                expected = f"{first[0]} columns as in line {first[1]}, got {len(columns)}"
                raise FormatError(path, number, line, expected)
            with located(path, number, line, f"columns {wanted}"):
                cells = [columns[column] for column in wanted]
            if not cells[0].strip():
                raise FormatError(path, number, line, f"a token in column {wanted[0]}, which is empty")
            rows.append((number, line, cells))


def write_conll(sentences: Iterable[Sentence], path: str | Path, layers: int = 1, on_loss: str = "raise") -> None:
    """Token, tab, BIO tag (as many tag columns as `layers`); an empty line after each sentence.

    The spaces between tokens, ids and documents are lost. Entities that tags cannot hold raise, or with
    `on_loss="drop"` are left out with a warning. Raises ValueError: such an entity, a sentence without tokens, or a
    token that could not be read back.
    """
    sentences, blocks = list(sentences), []
    for sentence in sentences:
        if not sentence.tokens:
            raise ValueError(f"sentence {sentence.id!r} has no tokens, which CoNLL cannot hold; leave it out first")
        for token in sentence.words:
            read_else = DOCUMENT.match(token) or COMMENT.match(f"{token}\t") or token[0] == "\ufeff"
            if read_else or any(letter in token for letter in "\t\n\r\0") or not token.strip():
                raise ValueError(f"token {token!r} of sentence {sentence.id!r} cannot stand in a column")
        columns = [sentence.words, *to_layers(sentence, layers, on_loss=on_loss)]
        blocks.append("".join("\t".join(row) + "\n" for row in zip(*columns)) + "\n")
    say_lost(path, lost_to_tags(sentences, layers))
    write_atomically(path, "".join(blocks))

"""CoNLL columns: one token a line with its tag or tags, an empty line after each sentence."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from utils.files import write_atomically
from utils.ner.formats import FormatError, located, read_lines
from utils.ner.sentence import Sentence
from utils.ner.tags import TagError, tags_to_spans, to_layers

Row = tuple[int, str, list[str]]  # line number, line, its token and tags


def read_conll(
    path: str | Path,
    token: int = 0,
    tags: int | Sequence[int] = -1,
    scheme: str = "auto",
    orphan: str = "repair",
    ids: Sequence[str] | None = None,
) -> list[Sentence]:
    """The sentences of a file of columns, with whatever entity types it has.

    Columns are divided by tabs where a line has one, otherwise by any white space. The text of a sentence is its tokens
    with one space between. Empty lines and lines of white space divide sentences; "-DOCSTART-" lines are left out.

    Args:
        token: the column of the tokens, counted from 0; negative numbers count from the end.
        tags: the column of the tags, or several that hold nested entities in layers.
        scheme: "BIO", "BIOES", or "auto": BIOES where a tag begins with E- or S-.
        orphan: an I- tag that starts an entity is taken as its beginning ("repair", with one warning a file), left
            out ("drop") or an error ("refuse").
        ids: the sentences' ids; 1, 2, 3, ... when not given.
    Raises FormatError: a line that cannot be read. OSError: no such file. ValueError: not one id a sentence.
    """
    path = Path(path)
    wanted = [token, tags] if isinstance(tags, int) else [token, *tags]
    blocks = list(_blocks(path, wanted))
    ids = list(map(str, range(1, len(blocks) + 1))) if ids is None else ids
    if len(ids) != len(blocks):
        raise ValueError(f"{len(ids)} ids for the {len(blocks)} sentences of {path}")
    if scheme == "auto":
        found = {tag[:2] for rows in blocks for _, _, cells in rows for tag in cells[1:]}
        scheme = "BIOES" if found & {"E-", "S-"} else "BIO"
    sentences, repaired = [], []
    for name, rows in zip(ids, blocks):
        words, *layers = zip(*(cells for _, _, cells in rows))
        spans = set().union(*(_spans(path, rows, layer, scheme, orphan, repaired) for layer in layers))
        number, line, _ = rows[0]
        with located(path, number, line, "a sentence whose tokens and entities fit"):
            sentences.append(Sentence.from_words(words, spans, name))
    if repaired:
        taken = f"{len(repaired)} tags that continue nothing were taken as the beginning of an entity"
        advice = 'orphan="refuse" makes them an error, "drop" leaves them out'
        warnings.warn(f"{path}: {taken}, the first in line {repaired[0]}; {advice}", stacklevel=2)
    return sentences


def _blocks(path: Path, wanted: list[int]) -> Iterator[list[Row]]:
    """The rows of each sentence, of their columns those that are wanted."""
    lines = (pair for pair in read_lines(path) if not pair[1].startswith("-DOCSTART-"))
    for filled, block in groupby(lines, lambda pair: bool(pair[1].strip())):
        if filled:
            yield [(number, line, _cells(path, number, line, wanted)) for number, line in block]


def _cells(path: Path, number: int, line: str, wanted: list[int]) -> list[str]:
    columns = line.split("\t") if "\t" in line else line.split()
    needed = max(2, *(column + 1 if column >= 0 else -column for column in wanted))
    if len(columns) < needed:
        raise FormatError(path, number, line, f"at least {needed} columns (token and tag), got {len(columns)}")
    cells = [columns[column] for column in wanted]
    if not cells[0].strip():
        raise FormatError(path, number, line, f"a token in column {wanted[0]}, which is empty")
    return cells


def _spans(path: Path, rows: list[Row], tags: Sequence[str], scheme: str, orphan: str, repaired: list[int]) -> set:
    """The spans of one layer; adds the lines of the repaired tags to `repaired`."""
    try:
        found = set(tags_to_spans(tags, scheme, orphan))
        whole = found if orphan != "repair" else set(tags_to_spans(tags, scheme, "drop"))
    except TagError as error:
        number, line, _ = rows[error.index]
        raise FormatError(path, number, line, f"{error.expected} ({error.problem})") from error
    repaired.extend(rows[start][0] for start, _, _ in sorted(found - whole))
    return found


def write_conll(
    sentences: Iterable[Sentence], path: str | Path, scheme: str = "BIO", layers: int = 1, on_loss: str = "raise"
) -> None:
    """Token, tab, tag (as many tag columns as `layers`); an empty line after each sentence.

    The spaces between tokens are lost, and so are ids. Entities that tags cannot hold (nested in more layers than
    there are, discontinuous, not at the tokens' edges) raise, or with `on_loss="drop"` are left out.

    Raises ValueError: an entity that does not fit, a sentence without tokens (which CoNLL cannot hold), or a token with
    a tab or line end in it.
    """
    blocks = []
    for sentence in sentences:
        if not sentence.tokens:
            raise ValueError(f"sentence {sentence.id!r} has no tokens, which CoNLL cannot hold; leave it out first")
        for token in sentence.tokens:
            if any(letter in token.text for letter in "\t\n\r\0") or not token.text.strip():
                raise ValueError(f"token {token.text!r} of sentence {sentence.id!r} cannot stand in a column")
        columns = [sentence.words, *to_layers(sentence, layers, scheme, on_loss)]
        blocks.append("".join("\t".join(row) + "\n" for row in zip(*columns)) + "\n")
    write_atomically(path, "".join(blocks))

"""CoNLL columns: one token a line with its tag or tags, an empty line after each sentence."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.files import write_atomically
from utils.ner.formats.files import FormatError, read_lines
from utils.ner.tags import TagError, tags_to_spans, to_layers
from utils.ner.types import Sentence

Row = tuple[int, str, list[str]]  # line number, line, columns


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
    Raises:
        FormatError: a line that cannot be read: file, line number, the line and what was expected.
        OSError: there is no such file.
        ValueError: not one id a sentence.
    """
    path = Path(path)
    columns = [tags] if isinstance(tags, int) else list(tags)
    blocks = list(_blocks(path))
    cells = [[_cells(path, row, [token, *columns]) for row in rows] for rows in blocks]
    if ids is not None and len(ids) != len(blocks):
        raise ValueError(f"{len(ids)} ids for the {len(blocks)} sentences of {path}")
    if scheme == "auto":
        scheme = "BIOES" if any(tag[:2] in ("E-", "S-") for rows in cells for row in rows for tag in row[1:]) else "BIO"
    sentences, repaired = [], []
    for number, (rows, found) in enumerate(zip(blocks, cells)):
        spans = set()
        for layer in range(1, len(columns) + 1):
            spans |= _spans(path, rows, [row[layer] for row in found], scheme, orphan, repaired)
        name = ids[number] if ids is not None else str(number + 1)
        sentences.append(Sentence.from_words((row[0] for row in found), spans, name))
    if repaired:
        warnings.warn(
            f"{path}: {len(repaired)} tags that continue nothing were taken as the beginning of an entity, the first "
            f'in line {repaired[0]}; orphan="refuse" makes them an error, "drop" leaves them out',
            stacklevel=2,
        )
    return sentences


def _blocks(path: Path) -> Iterable[list[Row]]:
    rows: list[Row] = []
    for number, line in read_lines(path):
        if line.strip():
            if not line.startswith("-DOCSTART-"):
                rows.append((number, line, line.split("\t") if "\t" in line else line.split()))
        elif rows:
            yield rows
            rows = []
    if rows:
        yield rows


def _cells(path: Path, row: Row, wanted: list[int]) -> list[str]:
    number, line, columns = row
    needed = max(column + 1 if column >= 0 else -column for column in wanted)
    needed = max(needed, 2)
    if len(columns) < needed:
        raise FormatError(path, number, line, f"at least {needed} columns (token and tag), got {len(columns)}")
    cells = [columns[column] for column in wanted]
    if not cells[0].strip():
        raise FormatError(path, number, line, f"a token in column {wanted[0]}, which is empty")
    return cells


def _spans(path: Path, rows: list[Row], tags: list[str], scheme: str, orphan: str, repaired: list[int]) -> set:
    try:
        if orphan != "repair":
            return set(tags_to_spans(tags, scheme, orphan))
        found = set(tags_to_spans(tags, scheme, "repair"))
        whole = set(tags_to_spans(tags, scheme, "drop"))
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

    Raises:
        ValueError: an entity that does not fit, a sentence without tokens (which CoNLL cannot hold), or a token with
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

"""Tokens with character offsets: cut from a text, or joined into one."""

import re
from collections.abc import Iterable
from typing import NamedTuple

# A run of letters and digits, or one other visible character. Hyphens, slashes and brackets thus stand alone, as in
# the tokenised biomedical corpora, so that an entity can begin or end at them: "p53-/-" is p53, -, /, -.
WORD = re.compile(r"[^\W_]+|[^\w\s]|_")


class Token(NamedTuple):
    """A stretch of a text: `text[start:end]`, offsets in characters, `end` not included."""

    start: int
    end: int
    text: str


def tokenize(text: str) -> list[Token]:
    """The tokens of a text, in order; every visible character is in exactly one of them."""
    return [Token(match.start(), match.end(), match.group()) for match in WORD.finditer(text)]


def join_words(words: Iterable[str]) -> tuple[str, list[Token]]:
    """A text made of words with one space between, and its tokens: `text[token.start:token.end] == token.text`.

    The spaces of the text that the words once came from are not known, so "IL-2" cut into three words reads "IL - 2".

    Raises:
        ValueError: an empty word.
    """
    tokens, start = [], 0
    for number, word in enumerate(words):
        if not word:
            raise ValueError(f"word {number} is empty; expected at least one character")
        tokens.append(Token(start, start + len(word), word))
        start += len(word) + 1
    return " ".join(token.text for token in tokens), tokens

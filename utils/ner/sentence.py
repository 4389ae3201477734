"""What every part of `utils.ner` speaks of: a `Sentence` with its tokens, and the `Entity` in it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

Span = tuple[int, int, str]  # start, end, type; of characters or of tokens, the end not included
MARKS = "".join(letter for letter in map(chr, range(0x10000)) if unicodedata.category(letter)[0] == "M")
INVISIBLE = "".join(letter for letter in map(chr, range(0x10000)) if unicodedata.category(letter) == "Cf")
# A run of letters and digits, or one other visible character. Hyphens, slashes and brackets thus stand alone, as in
# the tokenised biomedical corpora, so that an entity can begin or end at them: "p53-/-" is p53, -, /, -. An accent
# (U+0308) belongs to the character before it, and what is not seen (a soft hyphen) to the word around it.
WORD = re.compile(rf"[^\W_](?:[^\W_]+|[{MARKS}]+|[{INVISIBLE}]+(?=[{MARKS}]*[^\W_]))*|\S[{MARKS}]*")
# An end mark, perhaps quotes and closing brackets, white space, then a capital, a digit or an opening bracket.
SENTENCE_END = re.compile(r"[.?!][\"')\]]*\s+(?=[A-Z0-9(\[\"'])")
NAME_BEHIND_INITIAL = re.compile(r"[A-Z][\w-]*[.,]")
ABBREVIATION = re.compile(r"e\.g|i\.e|vs|cf|fig|dr|st|approx|ca|resp|refs?|nos?|i\.[vpm]|s\.c|p\.o|al|co|[eig]", re.I)


class Token(NamedTuple):
    """A stretch of a text: `text[start:end]`, offsets in characters, `end` not included."""

    start: int
    end: int
    text: str


def tokenize(text: str) -> list[Token]:
    """The tokens of a text, in order; every visible character is in exactly one of them."""
    return [Token(match.start(), match.end(), match.group()) for match in WORD.finditer(text)]


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text stand, as (start, end); the white space behind a sentence belongs to none.

    A full stop ends no sentence inside a number ("0. 05", as some corpora have it), behind an abbreviation or an
    initial ("J. Smith,"), nor in brackets.
    """
    ends = [match.end() for match in SENTENCE_END.finditer(text) if _ends_sentence(text, match)]
    spans = [(start, start + len(text[start:end].rstrip())) for start, end in pairwise([0, *ends, len(text)])]
    return [(start, end) for start, end in spans if start < end]


def _ends_sentence(text: str, match: re.Match) -> bool:
    before = text[max(0, match.start() - 20) : match.start()]
    word = re.search(r"[\w.]*$", before)[0]
    in_number = text[match.start()] == "." and before[-1:].isdigit() and text[match.end()].isdigit()
    initial = len(word) == 1 and word.isupper() and NAME_BEHIND_INITIAL.match(text, match.end())
    near = text[max(0, match.start() - 200) : match.end()]
    in_brackets = near.count("(") > near.count(")") or near.count("[") > near.count("]")
    return not (in_number or initial or in_brackets or ABBREVIATION.fullmatch(word))


@dataclass(frozen=True, order=True, slots=True)
class Entity:
    """A mention: `sentence.text[start:end]` names a thing of a type. Equal are those of the same pieces and type.

    `fragments` are put in order, the first beginning at `start` and the last stopping at `end`; those that touch become
    one. Raises ValueError: offsets that cover nothing, a bad type or concept, or fragments that do not fit.
    """

    start: int  # offset of the first character, counted from 0
    end: int  # offset behind the last character, above `start`
    type: str  # "Disease", "GENE", ... any printable string that is not empty and has no white space
    text: str = field(default="", compare=False)  # what it covers; a `Sentence` fills it in when it is not given
    fragments: tuple[tuple[int, int], ...] = ()  # (start, end) of each piece of a discontinuous mention; else empty
    concept: str = field(default="", compare=False)  # what it names in a database ("D009202"); "" if not known
    score: float | None = field(default=None, compare=False)  # how sure a tagger is, in [0, 1]; None if not known

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"an entity needs 0 <= start < end, got start {self.start} and end {self.end}")
        if not self.type or " " in self.type or not self.type.isprintable():
            raise ValueError(f"an entity's type must be a word without white space, got {self.type!r}")
        if not self.concept.isprintable() or self.concept != self.concept.strip():
            raise ValueError(f"a concept has no tab, line end or outer white space, got {self.concept!r}")
        if self.fragments:
            pieces = sorted(map(tuple, self.fragments))
            edges = [edge for piece in pieces for edge in piece]
            pairs = all(len(piece) == 2 and piece[0] < piece[1] for piece in pieces)
            if not pairs or edges != sorted(edges) or (edges[0], edges[-1]) != (self.start, self.end):
                raise ValueError(f"fragments {self.fragments} do not go in order from {self.start} to {self.end}")
            pieces = _joined(pieces)
            object.__setattr__(self, "fragments", pieces if len(pieces) > 1 else ())

    @property
    def span(self) -> Span:
        """(start, end, type): what two annotators have to agree on."""
        return self.start, self.end, self.type

    @property
    def pieces(self) -> tuple[tuple[int, int], ...]:
        """(start, end) of each piece; one for a mention that is not discontinuous."""
        return self.fragments or ((self.start, self.end),)

    def cut(self, text: str) -> str:
        """What the entity covers of a text; fragments joined by one space."""
        return " ".join(text[start:end] for start, end in self.pieces)

    def overlaps(self, other: Entity) -> bool:
        """Whether the two share a character (or the gap of a discontinuous one)."""
        return self.start < other.end and other.start < self.end


def _joined(pieces: Iterable[tuple[int, int]], text: str = "") -> tuple[tuple[int, int], ...]:
    """Pieces in order, those in one that touch or that only white space of the text divides."""
    joined: list[tuple[int, int]] = []
    for start, end in pieces:
        if joined and (joined[-1][1] == start or text[joined[-1][1] : start].isspace()):
            start, _ = joined.pop()
        joined.append((start, end))
    return tuple(joined)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text with tokens and entities; a whole abstract may be one too. It may be empty.

    Entities are sorted by start, then end, then type; they may nest and overlap; of duplicates one is kept, with the
    concepts of all ("D1|D2"). White space at an edge is cut off where no token has that edge; pieces that only white
    space divides become one. Raises ValueError: tokens or entities outside the text, out of order, or of another text.
    """

    text: str  # the characters that all offsets count
    tokens: Sequence[Token] | None = None  # in order, without overlap; (start, end) will do; by `tokenize` when None
    entities: Sequence[Entity] = ()
    id: str = ""  # the name of the sentence in its corpus, "" where it has none
    document: str = ""  # the abstract or file that it is a part of, "" where not known or it is the whole one

    def __post_init__(self) -> None:
        tokens = tokenize(self.text) if self.tokens is None else self._checked_tokens()
        object.__setattr__(self, "tokens", tuple(tokens))
        entities: dict[Entity, Entity] = {}
        for entity in map(self._checked, self.entities):
            same = entities.setdefault(entity, entity)
            if entity.concept != same.concept:
                concepts = dict.fromkeys(filter(None, f"{same.concept}|{entity.concept}".split("|")))
                entities[entity] = replace(same, concept="|".join(concepts))
        object.__setattr__(self, "entities", tuple(sorted(entities.values())))

    def _checked_tokens(self) -> Iterator[Token]:
        last, size = 0, len(self.text)
        for start, end, *given in self.tokens:
            if not last <= start < end <= size:
                raise ValueError(f"token {start} to {end} of {self.id!r} is out of order or outside {last} to {size}")
            surface = self.text[start:end]
            if given and given[0] != surface:
                raise ValueError(f"token {given[0]!r} of {self.id!r}: the text at {start}:{end} is {surface!r}")
            last = end
            yield Token(start, end, surface)

    def _checked(self, entity: Entity) -> Entity:
        start, end, kind = entity.span
        size, surface = len(self.text), entity.cut(self.text)
        if end > size:
            raise ValueError(f"{kind} {start} to {end} reaches beyond sentence {self.id!r} of {size} characters")
        if entity.text not in ("", surface):
            raise ValueError(f"{kind} {entity.text!r} of {self.id!r}: the text at {start}:{end} is {surface!r}")
        if entity.fragments or surface != surface.strip():
            entity = self._trimmed(entity)
        return entity if entity.text else replace(entity, text=entity.cut(self.text))

    def _trimmed(self, entity: Entity) -> Entity:
        starts, ends, pieces = {token.start for token in self.tokens}, {token.end for token in self.tokens}, []
        for start, end in _joined(entity.pieces, self.text):
            surface = self.text[start:end]
            if surface.strip():  # white space alone stays, as it is no mention whose edges could be meant
                start += 0 if start in starts else len(surface) - len(surface.lstrip())
                end -= 0 if end in ends else len(surface) - len(surface.rstrip())
            pieces.append((start, end))
        return replace(entity, start=pieces[0][0], end=pieces[-1][1], text="", fragments=tuple(pieces))

    @classmethod
    def from_words(cls, words: Iterable[str], spans: Iterable[Span] = (), id: str = "", document: str = "") -> Sentence:
        """A sentence of words with one space between, and of entities as (first word, word behind the last, type).

        The spaces of the text that the words once came from are not known, so "IL-2" cut into three reads "IL - 2".
        """
        words = list(words)
        starts = list(accumulate((len(word) + 1 for word in words), initial=0))
        entities = [Entity(starts[start], starts[end] - 1, kind) for start, end, kind in spans]
        tokens = [(start, start + len(word)) for start, word in zip(starts, words)]
        return cls(" ".join(words), tokens, entities, id, document)

    @property
    def words(self) -> list[str]:
        """The tokens' texts."""
        return [token.text for token in self.tokens]

    def with_entities(self, entities: Iterable[Entity]) -> Sentence:
        """The same sentence with other entities."""
        return replace(self, entities=tuple(entities))

"""What every part of `utils.ner` speaks of: a `Sentence` with its tokens, and the `Entity` in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from utils.ner.text import Token, join_words, tokenize


@dataclass(frozen=True, order=True, slots=True)
class Entity:
    """A mention: `sentence.text[start:end]` names a thing of a type.

    Two entities are equal when they cover the same characters with the same type.

    Attributes:
        start: offset of the first character, counted from 0.
        end: offset behind the last character, above `start`.
        type: "Disease", "GENE", ... any string that is not empty and has no white space.
        text: the characters it covers; a `Sentence` fills it in when it is not given.
        fragments: of a discontinuous mention the (start, end) of each piece, in order, the first beginning at `start`
            and the last stopping at `end`; empty for a mention in one piece.
    Raises:
        ValueError: offsets that cover nothing, a bad type, or fragments that do not fit.
    """

    start: int
    end: int
    type: str
    text: str = field(default="", compare=False)
    fragments: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"an entity needs 0 <= start < end, got start {self.start} and end {self.end}")
        if not self.type or any(letter.isspace() for letter in self.type):
            raise ValueError(f"an entity's type must be a word without white space, got {self.type!r}")
        if self.fragments:
            edges = [edge for fragment in self.fragments for edge in fragment]
            if edges != sorted(set(edges)) or (edges[0], edges[-1]) != (self.start, self.end):
                raise ValueError(f"fragments {self.fragments} do not go in order from {self.start} to {self.end}")

    @property
    def span(self) -> tuple[int, int, str]:
        """(start, end, type): what two annotators have to agree on."""
        return self.start, self.end, self.type

    def cut(self, text: str) -> str:
        """What the entity covers of a text; fragments joined by one space."""
        return " ".join(text[start:end] for start, end in self.fragments or ((self.start, self.end),))

    def overlaps(self, other: Entity) -> bool:
        """Whether the two share a character (or the gap of a discontinuous one)."""
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text with tokens and entities; a whole abstract may be one too. It may be empty.

    Attributes:
        text: the characters that all offsets count.
        tokens: in order, without overlap; made by `tokenize` when None. (start, end) pairs will do.
        entities: sorted by start, then end, then type; may nest and overlap; duplicates are removed.
        id: the name of the sentence in its corpus, "" where it has none.
        document: the name of the abstract or file it is a part of, "" where that is not known or it is the whole one.
    Raises:
        ValueError: tokens out of order or outside the text, an entity outside the text, or one whose text is another
            than the text at its offsets.
    """

    text: str
    tokens: Sequence[Token] | None = None
    entities: Sequence[Entity] = ()
    id: str = ""
    document: str = ""

    def __post_init__(self) -> None:
        tokens = tokenize(self.text) if self.tokens is None else self._checked_tokens()
        object.__setattr__(self, "tokens", tuple(tokens))
        object.__setattr__(self, "entities", tuple(sorted({self._checked(entity) for entity in self.entities})))

    def _checked_tokens(self) -> Iterable[Token]:
        last = 0
        for token in self.tokens:
            start, end = token[:2]
            if not last <= start < end <= len(self.text):
                raise ValueError(
                    f"token {start} to {end} of sentence {self.id!r} is out of order or outside: expected "
                    f"{last} <= start < end <= {len(self.text)}"
                )
            surface = self.text[start:end]
            if len(token) > 2 and token[2] != surface:
                raise ValueError(f"token {token[2]!r} of {self.id!r}: the text at {start}:{end} is {surface!r}")
            last = end
            yield token if isinstance(token, Token) else Token(start, end, surface)

    def _checked(self, entity: Entity) -> Entity:
        if entity.end > len(self.text):
            raise ValueError(
                f"{entity.type} {entity.start} to {entity.end} reaches beyond sentence {self.id!r} of "
                f"{len(self.text)} characters"
            )
        surface = entity.cut(self.text)
        if entity.text and entity.text != surface:
            raise ValueError(
                f"{entity.type} {entity.text!r} of sentence {self.id!r}: the text at {entity.start}:{entity.end} "
                f"is {surface!r}"
            )
        return entity if entity.text else replace(entity, text=surface)

    @classmethod
    def from_words(cls, words: Iterable[str], spans: Iterable[tuple[int, int, str]] = (), id: str = "") -> Sentence:
        """A sentence from words and entities given as (first word, word behind the last, type)."""
        text, tokens = join_words(words)
        entities = [Entity(tokens[start].start, tokens[end - 1].end, kind) for start, end, kind in spans]
        return cls(text, tokens, entities, id)

    @property
    def words(self) -> list[str]:
        """The tokens' texts."""
        return [token.text for token in self.tokens]

    def with_entities(self, entities: Iterable[Entity]) -> Sentence:
        """The same sentence with other entities."""
        return replace(self, entities=tuple(entities))

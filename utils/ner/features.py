"""What taggers see of a token: strings such as "lower[-1]=breast" for a CRF, numbers for a network.

The kinds of features are chosen here after published gene and disease taggers with a CRF, such as BANNER (Leaman &
Gonzalez 2008): the word, its lower case, stem, shape, beginnings, ends and letter n-grams, some of these of its
neighbours, pairs of neighbours, brackets, and look-up in lists of names, as in BioTagger-GM (Torii et al. 2009).
Left out are part-of-speech tags, for which the course has no tagger.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from utils.files import write_atomically
from utils.ner.lexicons import Lexicon
from utils.ner.lookup import leftmost_longest
from utils.ner.sentence import Sentence
from utils.ner.words import GREEK, GREEK_WORDS, ROMAN, name_parts, normalise, shape, short_shape, stem

# Strings of neighbours side by side: which of a word's strings, and at which offsets.
JOINED = {
    "lower": [(-1, 0), (0, 1), (-2, -1), (1, 2), (-1, 1)],
    "short": [(-1, 0, 1), (-2, -1, 0), (0, 1, 2)],
    "stem": [(-1, 0), (0, 1)],
}
REACH = 2  # the farthest of these offsets
STORED = 20_000  # words whose features are kept for when they come again, some 3 KiB each
LABELS = ("", "B", "I", "E", "S")
SHAPES = ("padding", "lower", "Title", "UPPER", "One capital", "mIxed", "digits", "d1gits inside", "other")


class LexiconMatcher:
    """Looks sentences up in lists, without regard to case, hyphens and spaces (`name_parts`)."""

    def __init__(self, lexicons: Sequence[Lexicon]) -> None:
        self._automata = {lexicon.name: lexicon.automaton for lexicon in lexicons}

    def labels(self, words: Sequence[str]) -> dict[str, list[str]]:
        """For each list and word B, I, E or S where the word stands in a name of the list, else "".

        Of names that overlap the first and then the longest counts; a name begins and ends where words do.
        """
        parts: list[str] = []
        first, last = {}, {}  # the word that begins at a part, and the one behind the word that ends before a part
        for i, word in enumerate(words if self._automata else ()):
            if cut := name_parts(word):
                first[len(parts)] = i
                parts += cut
                last[len(parts)] = i + 1
        found = {}
        for name, automaton in self._automata.items():
            whole = [(first[a], last[b]) for a, b in automaton.matches(parts) if a in first and b in last]
            found[name] = labels = [""] * len(words)
            for start, end in leftmost_longest(whole):
                labels[start:end] = ["B", *"I" * (end - start - 2), "E"] if end - start > 1 else ["S"]
        return found


class _Described(NamedTuple):
    """A word's own features, those its neighbours get (for each offset but 0), and its strings."""

    own: list[str]
    around: list[list[str]]
    lower: str
    short: str
    stem: str


class WordFeatures:
    """Turns the words of a sentence into one list of features for each.

    It is a callable, `words -> list of lists of strings`, and any other such callable can take its place in a
    `CRFTagger`, for example one that stems the words first and then calls this.

    Args:
        window: how many neighbours to each side are described.
        affixes: the longest beginning and end of a word, from 2 letters on; 0 for none.
        grams: lengths of letter n-grams within the word.
        stems: Snowball stems of the word and its neighbours, beside the words themselves.
        shapes: shapes of the word and its neighbours.
        pairs: pairs of neighbouring words and triples of shapes.
        brackets: whether a word stands in brackets, and alone in them.
        lexicons: lists of names to look words up in.
    Attributes:
        options: all of these but the lexicons, for JSON: `WordFeatures(**options)`.
    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        window: int = 2,
        affixes: int = 5,
        grams: Sequence[int] = (2, 3),
        stems: bool = True,
        shapes: bool = True,
        pairs: bool = True,
        brackets: bool = True,
        lexicons: Sequence[Lexicon] = (),
    ) -> None:
        if window < 0 or affixes < 0 or any(length < 1 for length in grams):
            raise ValueError(f"expected window >= 0, affixes >= 0 and grams >= 1, got {window}, {affixes}, {grams}")
        self.options = dict(
            window=window,
            affixes=affixes,
            grams=list(grams),
            stems=stems,
            shapes=shapes,
            pairs=pairs,
            brackets=brackets,
        )
        self.window, self.affixes, self.grams, self.stems, self.shapes = window, affixes, grams, stems, shapes
        self.pairs, self.brackets, self.lexicons = pairs, brackets, tuple(lexicons)
        self._offsets = [offset for offset in range(-window, window + 1) if offset]
        self._matcher = LexiconMatcher(self.lexicons)
        self._describe = lru_cache(STORED)(self._compute)

    def __call__(self, words: Sequence[str]) -> list[list[str]]:
        """Features of each word, in order; an empty list for no words."""
        described, edge = [self._describe(word) for word in words], self._describe("")
        lists = [word.own.copy() for word in described]
        for place, offset in enumerate(self._offsets):
            for i, found in enumerate(lists):
                other = described[i + offset] if 0 <= i + offset < len(described) else edge
                found += other.around[place]
        if self.pairs:
            self._add_joined(lists, [edge] * REACH + described + [edge] * REACH)
        if self.brackets:
            _add_labels(lists, bracket_labels(words), "brackets", (0,))
        for name, labels in self._matcher.labels(words).items():
            _add_labels(lists, labels, name, (-1, 0, 1))
        return lists

    def _compute(self, word: str) -> _Described:
        """What there is to say about a word by itself."""
        lower, short = word.lower() or "^", short_shape(word) or "^"
        root = stem(lower) if self.stems else ""
        around = []
        for offset in self._offsets:
            context = [f"lower[{offset}]={lower}"]
            if self.shapes:
                context.append(f"short[{offset}]={short}")
            if self.stems:
                context.append(f"stem[{offset}]={root}")
            if self.affixes:
                context.append(f"end3[{offset}]={lower[-3:]}")
            around.append(context)
        return _Described(list(dict.fromkeys(self._own(word, lower, root, short))), around, lower, short, root)

    def _own(self, word: str, lower: str, root: str, short: str) -> Iterable[str]:
        yield from ("bias", f"word={word}", f"lower={lower}", f"norm={normalise(word)}", f"length={min(len(word), 10)}")
        if self.stems:
            yield f"stem={root}"
        if self.shapes:
            yield from (f"shape={shape(word)[:12]}", f"short={short}")
        for length in range(2, min(self.affixes, len(lower) - 1) + 1):
            yield from (f"begin={lower[:length]}", f"end={lower[-length:]}")
        framed = f"^{lower}$"
        for length in self.grams:
            yield from (f"gram={framed[k : k + length]}" for k in range(len(framed) - length + 1))
        if lower in GREEK_WORDS or lower in GREEK:
            yield "greek"
        if word and ROMAN.fullmatch(word):
            yield "roman"

    def _add_joined(self, lists: list[list[str]], padded: list[_Described]) -> None:
        """What neighbours are together: padded has REACH words more than `lists` on each side."""
        for kind, places in JOINED.items():
            if (kind == "stem" and not self.stems) or (kind == "short" and not self.shapes):
                continue
            column = [getattr(word, kind) for word in padded]
            for offsets in places:
                prefix = f"{kind}[{','.join(map(str, offsets))}]="
                side_by_side = zip(*(column[REACH + offset :] for offset in offsets))
                for found, strings in zip(lists, side_by_side):
                    found.append(prefix + "|".join(strings))


def _add_labels(lists: list[list[str]], labels: Sequence[str], name: str, offsets: Sequence[int]) -> None:
    """Tell each word of its own label and of those of its neighbours."""
    for i, label in enumerate(labels):
        for offset in offsets if label else ():
            if 0 <= i - offset < len(lists):
                lists[i - offset].append(f"{name}[{offset}]={label}")


def bracket_labels(words: Sequence[str]) -> list[str]:
    """For each word "in" where it stands in round or square brackets, "alone" where nothing else does, else ""."""
    labels, opened = [""] * len(words), []
    for i, word in enumerate(words):
        if word in ("(", "["):
            opened.append(i)
        elif word in (")", "]") and opened:
            start = opened.pop()
            labels[start + 1 : i] = [label or "in" for label in labels[start + 1 : i]]
            if i - start == 2:
                labels[start + 1] = "alone"
    return labels


def shape_of(word: str) -> str:
    """How a word is written, one of SHAPES: what an uncased vocabulary does not see."""
    if word.isdecimal():
        return "digits"
    if any(letter.isdecimal() for letter in word):
        return "d1gits inside"
    if not word.isalpha():
        return "other"
    if word.islower():
        return "lower"
    if word.isupper():
        return "UPPER" if len(word) > 1 else "One capital"
    return "Title" if word[0].isupper() and word[1:].islower() else "mIxed"


class TokenFeatures:
    """What a network is told of a token besides its characters: numbers, 0 being for padding. They are its shape, and
    for each list of names whether the token stands in one of them (outside, begin, inside, end, single), looked up as
    `LexiconMatcher` does."""

    def __init__(self, lexicons: Sequence[Lexicon] = ()) -> None:
        self.lexicons = tuple(lexicons)
        self._matcher = LexiconMatcher(self.lexicons)

    @property
    def sizes(self) -> list[int]:
        """How many numbers there are for a shape, and for each lexicon."""
        return [len(SHAPES), *[len(LABELS) + 1] * len(self.lexicons)]

    def __call__(self, sentence: Sentence) -> list[list[int]]:
        """One list (tokens) for each of `sizes`."""
        words = sentence.words
        labels = self._matcher.labels(words)
        found = [[LABELS.index(label) + 1 for label in labels[lexicon.name]] for lexicon in self.lexicons]
        return [[SHAPES.index(shape_of(word)) for word in words], *found]

    def save(self, folder: Path) -> None:
        lists = [lexicon.to_json() for lexicon in self.lexicons]
        write_atomically(folder / "lexicons.json", json.dumps(lists, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> TokenFeatures:
        saved = json.loads((folder / "lexicons.json").read_text("utf-8"))
        return cls(list(map(Lexicon.from_json, saved)))

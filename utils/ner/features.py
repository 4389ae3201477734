"""What a CRF sees of a token: strings such as "lower[-1]=breast", computed for a whole sentence at once.

The kinds of features are chosen here after published gene and disease taggers with a CRF, such as BANNER (Leaman &
Gonzalez 2008): the word, its lower case, stem, shape, beginnings, ends and letter n-grams, some of these of its
neighbours, pairs of neighbours, brackets, and look-up in lists of names, as in BioTagger-GM (Torii et al. 2009).
Left out are part-of-speech tags, for which the course has no tagger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from utils.ner.lexicons import Lexicon
from utils.ner.lookup import leftmost_longest
from utils.ner.words import CACHE, GREEK, GREEK_WORDS, ROMAN, name_parts, normalise, shape, short_shape, stem

# Strings of neighbours side by side: which of a word's strings, and at which offsets.
JOINED = (
    ("lower", (-1, 0)), ("lower", (0, 1)), ("lower", (-2, -1)), ("lower", (1, 2)), ("lower", (-1, 1)),
    ("short", (-1, 0, 1)), ("short", (-2, -1, 0)), ("short", (0, 1, 2)), ("stem", (-1, 0)), ("stem", (0, 1)),
)  # fmt: skip
REACH = 2  # the farthest of these offsets


class LexiconMatcher:
    """Looks sentences up in lists, without regard to case, hyphens and spaces (`name_parts`)."""

    def __init__(self, lexicons: Sequence[Lexicon]) -> None:
        self._automata = {one.name: one.automaton for one in lexicons}

    def labels(self, words: Sequence[str]) -> dict[str, list[str]]:
        """For each list and word B, I, E or S where the word stands in a name of the list, else "".

        Of names that overlap the first and then the longest counts; a name begins and ends where words do.
        """
        if not self._automata:
            return {}
        parts: list[str] = []
        first, last = {}, {}  # the word that begins at a part, and the one behind the word that ends before a part
        for i, word in enumerate(words):
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


@dataclass(frozen=True)
class WordFeatures:
    """Turns the words of a sentence into one list of features for each.

    It is a callable, `words -> list of lists of strings`, and any other such callable can take its place in a
    `CRFTagger`, for example one that stems the words first and then calls this.

    Attributes:
        window: how many neighbours to each side are described.
        affixes: the longest beginning and end of a word, from 2 letters on; 0 for none.
        grams: lengths of letter n-grams within the word.
        stems: Snowball stems of the word and its neighbours, beside the words themselves.
        shapes: shapes of the word and its neighbours.
        pairs: pairs of neighbouring words and triples of shapes.
        brackets: whether a word stands in brackets, and alone in them.
        lexicons: lists of names to look words up in.
    """

    window: int = 2
    affixes: int = 5
    grams: tuple[int, ...] = (2, 3)
    stems: bool = True
    shapes: bool = True
    pairs: bool = True
    brackets: bool = True
    lexicons: tuple[Lexicon, ...] = ()
    known: Collection[str] | None = None  # features that a model has weights for; the others are left out

    def __post_init__(self) -> None:
        if self.window < 0 or self.affixes < 0 or any(length < 1 for length in self.grams):
            raise ValueError(
                f"expected window >= 0, affixes >= 0 and grams >= 1, got {self.window}, {self.affixes}, {self.grams}"
            )
        object.__setattr__(self, "_matcher", LexiconMatcher(self.lexicons))
        object.__setattr__(self, "_stored", {})
        joined = [
            (kind, offsets, f"{kind}[{','.join(map(str, offsets))}]=")
            for kind, offsets in JOINED
            if self.pairs and (self.stems or kind != "stem") and (self.shapes or kind != "short")
        ]
        object.__setattr__(self, "_joined", [(*one, self._table(one[2], len(one[1]))) for one in joined])

    def _table(self, prefix: str, count: int) -> dict[tuple[str, ...], str] | None:
        """Known features of neighbours by their strings, so that none has to be put together to be looked up."""
        if self.known is None:
            return None
        found = [one for one in self.known if one.startswith(prefix)]
        return {parts: one for one in found for parts in _splits(one[len(prefix) :], count)}

    def only(self, known: Collection[str]) -> WordFeatures:
        """The same, without the features that are not in `known`: what a trained model has no weight for costs time."""
        slim = replace(self, known=frozenset(known), lexicons=())
        object.__setattr__(slim, "_matcher", self._matcher)
        return slim

    def forget(self) -> None:
        """Empty the store of words, which holds some 3 KiB for each."""
        self._stored.clear()

    def options(self) -> dict:
        """What `WordFeatures(**options)` needs, without the lexicons; for JSON."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("lexicons", "known")}

    def __call__(self, words: Sequence[str]) -> list[list[str]]:
        """Features of each word, in order; an empty list for no words."""
        described, edge = [self._describe(word) for word in words], self._describe("")
        lists = [one.own.copy() for one in described]
        for place, offset in enumerate(self._offsets()):
            for i, found in enumerate(lists):
                other = described[i + offset] if 0 <= i + offset < len(described) else edge
                found += other.around[place]
        self._add_joined(lists, [edge] * REACH + described + [edge] * REACH)
        if self.brackets:
            self._add(lists, bracket_labels(words), "brackets", (0,))
        for name, labels in self._matcher.labels(words).items():
            self._add(lists, labels, name, (-1, 0, 1))
        return lists

    def _offsets(self) -> list[int]:
        return [offset for offset in range(-self.window, self.window + 1) if offset]

    def _describe(self, word: str) -> _Described:
        """What there is to say about a word, kept for when it comes again."""
        stored = self._stored.get(word)
        if stored is None:
            if len(self._stored) >= CACHE:
                self._stored.clear()
            stored = self._stored[word] = self._compute(word)
        return stored

    def _compute(self, word: str) -> _Described:
        lower, short = word.lower() or "^", short_shape(word) or "^"
        root = stem(lower) if self.stems else ""
        around = []
        for offset in self._offsets():
            context = [f"lower[{offset}]={lower}"]
            if self.shapes:
                context.append(f"short[{offset}]={short}")
            if self.stems:
                context.append(f"stem[{offset}]={root}")
            if self.affixes:
                context.append(f"end3[{offset}]={lower[-3:]}")
            around.append(self._kept(context))
        return _Described(self._kept(self._own(word, lower, root, short)), around, lower, short, root)

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

    def _kept(self, features: Iterable[str]) -> list[str]:
        unique = dict.fromkeys(features)
        return list(unique) if self.known is None else [one for one in unique if one in self.known]

    def _add_joined(self, lists: list[list[str]], padded: list[_Described]) -> None:
        columns = {
            "lower": [one.lower for one in padded],
            "short": [one.short for one in padded],
            "stem": [one.stem for one in padded],
        }
        for kind, offsets, prefix, table in self._joined:
            column = columns[kind]
            side_by_side = zip(*(column[REACH + offset : REACH + offset + len(lists)] for offset in offsets))
            for found, strings in zip(lists, side_by_side):
                if table is None:
                    found.append(prefix + "|".join(strings))
                elif strings in table:
                    found.append(table[strings])

    @staticmethod
    def _add(lists: list[list[str]], labels: Sequence[str], name: str, offsets: Sequence[int]) -> None:
        """Tell each word of its own label and of those of its neighbours."""
        for i, label in enumerate(labels):
            if label:
                for offset in offsets:
                    if 0 <= i - offset < len(lists):
                        lists[i - offset].append(f"{name}[{offset}]={label}")


def bracket_labels(words: Sequence[str]) -> list[str]:
    """For each word "in" where it stands in round or square brackets, "alone" where nothing else does, else ""."""
    labels, opened = [""] * len(words), []
    for i, word in enumerate(words):
        if word in "([" and word:
            opened.append(i)
        elif word in ")]" and word and opened:
            start = opened.pop()
            labels[start + 1 : i] = [label or "in" for label in labels[start + 1 : i]]
            if i - start == 2:
                labels[start + 1] = "alone"
    return labels


def _splits(text: str, count: int) -> Iterable[tuple[str, ...]]:
    """All ways to cut a text at `count` - 1 of its "|": more than one where a word is or has such a sign itself."""
    if count == 1:
        yield (text,)
    for place, sign in enumerate(text if count > 1 else ""):
        if sign == "|":
            yield from ((text[:place], *rest) for rest in _splits(text[place + 1 :], count - 1))

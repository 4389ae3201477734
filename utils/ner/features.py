"""What taggers see of a token: strings such as "lower[-1]=breast" for a CRF, numbers for a network.

They are chosen after published gene and disease taggers with a CRF, such as BANNER (Leaman & Gonzalez 2008), with
look-up in lists of names as in BioTagger-GM (Torii et al. 2009); without parts of speech.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

from utils.ner.lexicons import Lexicon, automaton_of
from utils.ner.sentence import Sentence
from utils.ner.words import GREEK, ROMAN, leftmost_longest, name_parts, normalise, shape, short_shape, stem

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
        self._automata = {lexicon.name: automaton_of(lexicon.names) for lexicon in lexicons}

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
    own: list[str]  # a word's features
    around: dict[int, list[str]]  # what it adds to those of a word that has it at this offset
    strings: dict[str, str]  # of each kind, what these are made of


@dataclass(eq=False)
class WordFeatures:
    """Turns the words of a sentence into one list of features for each; a `CRFTagger` also takes another callable.

    `options` are the arguments but the lexicons, for JSON. Raises ValueError: a number out of its range.
    """

    window: int = 2  # how many neighbours to each side are described
    affixes: int = 5  # the longest beginning and end of a word, from 2 letters on; 0 for none
    grams: Sequence[int] = (2, 3)  # lengths of letter n-grams within the word
    stems: bool = True  # Snowball stems of the word and its neighbours, beside the words themselves
    shapes: bool = True  # of the word and its neighbours
    pairs: bool = True  # of neighbouring words, and triples of shapes
    brackets: bool = True  # whether a word stands in brackets, and alone in them
    lexicons: Iterable[Lexicon] = ()  # lists of names to look words up in

    def __post_init__(self) -> None:
        self.grams, self.lexicons = list(self.grams), tuple(self.lexicons)
        self.options = {name: value for name, value in vars(self).items() if name != "lexicons"}
        if self.window < 0 or self.affixes < 0 or min(self.grams, default=1) < 1:
            raise ValueError(f"expected window >= 0, affixes >= 0 and grams >= 1, got {self.options}")
        self._offsets = [offset for offset in range(-self.window, self.window + 1) if offset]
        self._matcher = LexiconMatcher(self.lexicons)
        self._describe = lru_cache(STORED)(self._compute)
        self._edge = self._compute("")  # stands before the first word and behind the last
        self._joined = [
            (kind, offsets, f"{kind}[{','.join(map(str, offsets))}]=")
            for kind, places in JOINED.items()
            for offsets in places
            if self.pairs and kind in self._edge.strings
        ]

    def __reduce__(self) -> tuple:
        """Pickled and copied by its arguments: the words that it keeps are found again."""
        return partial(type(self), **self.options, lexicons=self.lexicons), ()

    def __call__(self, words: Sequence[str]) -> list[list[str]]:
        """Features of each word, in order; an empty list for no words."""
        described, edge = list(map(self._describe, words)), [self._edge] * max(self.window, REACH)
        lists, padded = [word.own.copy() for word in described], edge + described + edge
        columns = {kind: [word.strings[kind] for word in padded] for kind in self._edge.strings}
        joined = []  # lists of one string for each word
        for kind, offsets, prefix in self._joined:
            beside = zip(*(columns[kind][len(edge) + offset :] for offset in offsets))
            joined.append([prefix + strings for strings in map("|".join, beside)])
        for i, (found, *strings) in enumerate(zip(lists, *joined), len(edge)):
            for offset in self._offsets:
                found += padded[i + offset].around[offset]
            found += strings
        if self.brackets:
            _add_labels(lists, bracket_labels(words), "brackets", (0,))
        for name, labels in self._matcher.labels(words).items():
            _add_labels(lists, labels, name, (-1, 0, 1))
        return lists

    def _compute(self, word: str) -> _Described:
        lower = word.lower() or "^"
        strings = {"lower": lower}
        own = ["bias", f"word={word}", f"lower={lower}", f"norm={normalise(word)}", f"length={min(len(word), 10)}"]
        if self.shapes:
            strings["short"] = short_shape(word) or "^"
        if self.stems:
            strings["stem"] = stem(lower)
            own.append(f"stem={strings['stem']}")
        if self.shapes:
            own += [f"shape={shape(word)[:12]}", f"short={strings['short']}"]
        if self.affixes:
            strings["end3"] = lower[-3:]
        for length in range(2, min(self.affixes, len(lower) - 1) + 1):
            own += [f"begin={lower[:length]}", f"end={lower[-length:]}"]
        framed = f"^{lower}$"
        for length in self.grams:
            own += [f"gram={framed[k : k + length]}" for k in range(len(framed) - length + 1)]
        if lower in GREEK or lower in GREEK.values():
            own.append("greek")
        if ROMAN.fullmatch(word):
            own.append("roman")
        around = {offset: [f"{kind}[{offset}]={text}" for kind, text in strings.items()] for offset in self._offsets}
        return _Described(list(dict.fromkeys(own)), around, strings)


def _add_labels(lists: list[list[str]], labels: Sequence[str], name: str, offsets: Sequence[int]) -> None:
    """Tell each word of its own label and of those of its neighbours."""
    for i, label in enumerate(labels):
        for offset in offsets:
            if label and 0 <= i - offset < len(lists):
                lists[i - offset].append(f"{name}[{offset}]={label}")


def bracket_labels(words: Sequence[str]) -> list[str]:
    """For each word "in" where it stands in round or square brackets, "alone" where nothing else does, else ""."""
    labels, opened = [""] * len(words), {"(": [], "[": []}
    for i, word in enumerate(words):
        if word in opened:
            opened[word].append(i)
        elif before := opened.get({")": "(", "]": "["}.get(word)):
            start = before.pop()
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
    """What a network is told of a token besides its characters, as numbers, 0 being for padding: its shape if `shapes`,
    and for each list of names its place in one of them (outside, begin, inside, end, single), by `LexiconMatcher`."""

    def __init__(self, lexicons: Sequence[Lexicon] = (), shapes: bool = True) -> None:
        self.lexicons, self.shapes = tuple(lexicons), shapes
        self._matcher = LexiconMatcher(self.lexicons)

    @property
    def sizes(self) -> list[int]:
        """How many numbers there are for a shape, and for each lexicon."""
        return [len(SHAPES)] * self.shapes + [len(LABELS) + 1] * len(self.lexicons)

    def __call__(self, sentence: Sentence) -> list[list[int]]:
        """One list (tokens) for each of `sizes`."""
        columns = [[SHAPES.index(shape_of(word)) for word in sentence.words]] if self.shapes else []
        labels = self._matcher.labels(sentence.words)
        for lexicon in self.lexicons:
            columns.append([LABELS.index(label) + 1 for label in labels[lexicon.name]])
        return columns

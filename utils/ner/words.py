"""Words: other forms of them (shape, stem, numbers and Greek letters made alike), and sequences of them looked up."""

import re
from collections import deque
from collections.abc import Iterable, Sequence
from functools import lru_cache
from threading import Lock

import snowballstemmer

NAMES = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon"
GREEK = dict(zip("αβγδεζηθικλμνξοπρστυφχψω", [*NAMES.split(), "phi", "chi", "psi", "omega"]))
SPELT, APART = str.maketrans(GREEK), str.maketrans({letter: f" {name} " for letter, name in GREEK.items()})
ROMAN = re.compile(r"(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3})")
PARTS = re.compile(r"[^\W\d_]+|\d+")
CACHE = 200_000  # words for which a result is kept; bounded, so that memory is

_stem, _stemming = snowballstemmer.stemmer("english").stemWord, Lock()  # it keeps the word in itself


@lru_cache(CACHE)
def stem(word: str) -> str:
    """The Snowball stem of a word in lower case: "mutations" and "mutated" are both "mutat"."""
    with _stemming:
        return _stem(word)


@lru_cache(CACHE)
def shape(word: str) -> str:
    """Each capital as A, other letter as a, digit as 0; the rest as it is: "IL-2Ralpha" is "AA-0Aaaaaa"."""
    return "".join("A" if c.isupper() else "a" if c.isalpha() else "0" if c.isdigit() else c for c in word)


def short_shape(word: str) -> str:
    """The shape with runs of one sign cut to one: "IL-2Ralpha" is "A-0Aa"."""
    return re.sub(r"(.)\1+", r"\1", shape(word))


def normalise(word: str) -> str:
    """Lower case, each number as 0, Greek letters spelt out: "TGFβ12" is "tgfbeta0"."""
    return re.sub(r"\d+", "0", word.lower().translate(SPELT))


def cut_name(word: str) -> tuple[str, ...]:
    """A word or name cut for look-up: runs of letters and of digits, lower case, Greek spelt out, marks left out: IL2,
    IL-2 and il 2 are all ("il", "2")."""
    return tuple(PARTS.findall(word.lower().translate(APART)))


name_parts = lru_cache(CACHE)(cut_name)  # for words of sentences, which come again and again; names come once


class Automaton:
    """Finds sequences of tokens, of which there may be hundreds of thousands (Aho & Corasick 1975, CACM 18:333).

    A state stands for a prefix of names (sequences of tokens; empty ones are left out). At a token that does not
    continue the prefix, the failure link leads to the longest shorter prefix that the tokens read so far still end
    with, so no token is read twice.
    """

    def __init__(self, names: Iterable[Sequence[str]]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._lengths: list[tuple[int, ...]] = [()]  # of all names that end in a state, longest first
        for name in filter(len, names):
            state = 0
            for word in name:
                following = self._next[state].setdefault(word, len(self._next))
                if following == len(self._next):
                    self._next.append({})
                    self._lengths.append(())
                state = following
            self._lengths[state] = (len(name),)
        self._fail = [0] * len(self._next)
        queue = deque(self._next[0].values())
        while queue:  # breadth first: a link leads to a shorter prefix, so it is finished before it is needed
            state = queue.popleft()
            for word, following in self._next[state].items():
                self._fail[following] = self._step(self._fail[state], word)
                self._lengths[following] += self._lengths[self._fail[following]]
                queue.append(following)

    def _step(self, state: int, word: str) -> int:
        while state and word not in self._next[state]:
            state = self._fail[state]
        return self._next[state].get(word, 0)

    def matches(self, words: Sequence[str]) -> list[tuple[int, int]]:
        """Every occurrence of every name as (first word, word behind the last), by its end, then the longest first."""
        found, state = [], 0
        for end, word in enumerate(words, 1):
            state = self._step(state, word)
            found += [(end - length, end) for length in self._lengths[state]]
        return found

    def longest(self, words: Sequence[str]) -> list[tuple[int, int]]:
        """From left to right the longest name that begins at a word, without overlap."""
        return leftmost_longest(self.matches(words))


def leftmost_longest(matches: Iterable[tuple]) -> list[tuple]:
    """Of (start, end, ...) tuples the first to begin, of those the longest, of equals the first given; none overlap."""
    kept: list[tuple] = []
    for match in sorted(matches, key=lambda match: (match[0], -match[1])):
        if not kept or match[0] >= kept[-1][1]:
            kept.append(match)
    return kept

"""Aho and Corasick's automaton over tokens: every name of a list found in one pass over a sentence."""

from collections import deque
from collections.abc import Iterable, Sequence


class Automaton:
    """Finds sequences of tokens, of which there may be hundreds of thousands (Aho & Corasick 1975, CACM 18:333).

    A state stands for a prefix of names. At a token that does not continue the prefix, the failure link leads to the
    longest shorter prefix that the tokens read so far still end with, so no token is read twice.

    Args:
        names: sequences of tokens (or of anything that can be a key); empty ones are left out.
    """

    def __init__(self, names: Iterable[Sequence[str]]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._lengths: list[tuple[int, ...]] = [()]  # of all names that end in a state, longest first
        for name in names:
            if len(name):
                self._add(name)
        self._fail = [0] * len(self._next)
        self._link()

    def _add(self, name: Sequence[str]) -> None:
        state = 0
        for word in name:
            following = self._next[state].setdefault(word, len(self._next))
            if following == len(self._next):
                self._next.append({})
                self._lengths.append(())
            state = following
        self._lengths[state] = (len(name),)

    def _link(self) -> None:
        """Failure links, breadth first: a link leads to a shorter prefix, so it is finished before it is needed."""
        queue = deque(self._next[0].values())
        while queue:
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
        following, fail, lengths = self._next, self._fail, self._lengths
        for end, word in enumerate(words, 1):  # `_step`, written out: this loop is where look-up spends its time
            while state and word not in following[state]:
                state = fail[state]
            state = following[state].get(word, 0)
            for length in lengths[state]:
                found.append((end - length, end))
        return found

    def longest(self, words: Sequence[str]) -> list[tuple[int, int]]:
        """From left to right the longest name that begins at a word, without overlap."""
        return leftmost_longest(self.matches(words))


def leftmost_longest(matches: Iterable[tuple]) -> list[tuple]:
    """Of (start, end, ...) tuples, the first and of those the longest, of equals the one given first; then the same
    behind its end."""
    kept: list[tuple] = []
    for match in sorted(matches, key=lambda match: (match[0], -match[1])):
        if not kept or match[0] >= kept[-1][1]:
            kept.append(match)
    return kept

"""DictionaryTagger: names it was told, looked up as the longest run of tokens, all in one pass."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.files import write_atomically
from utils.ner.automaton import Automaton
from utils.ner.tagger import Tagger
from utils.ner.text import tokenize
from utils.ner.types import Entity, Sentence


class DictionaryTagger(Tagger):
    """Marks the longest names that begin at each token, from left to right, without overlap.

    `fit` learns every mention of train and dev; of a name seen with several types the most frequent one is taken, and
    of equally frequent ones the first in the alphabet. Names are compared as sequences of tokens, so spaces do not
    matter. What looks like a name but is not (the word "was") is marked all the same: a dictionary knows no context.

    Args:
        names: further names, as (text, type); they count as seen once.
        lower: compare without regard to case.
    """

    name = "dictionary"

    def __init__(self, names: Iterable[tuple[str, str]] = (), lower: bool = False) -> None:
        self.lower = lower
        self._counts: dict[tuple[str, ...], Counter] = defaultdict(Counter)
        for text, kind in names:
            if words := [token.text for token in tokenize(text)]:
                self._counts[self._key(words)][kind] += 1
        self._settle()

    def __len__(self) -> int:
        """How many names it knows."""
        return len(self._types)

    def fit(
        self, train: Sequence[Sentence], dev: Sequence[Sentence] = (), folder: str | Path | None = None
    ) -> DictionaryTagger:
        """Learn the mentions of train and dev, in addition to what is known. Discontinuous ones are left out."""
        for sentence in (*train, *dev):
            for entity in sentence.entities:
                words = [one.text for one in sentence.tokens if entity.start < one.end and one.start < entity.end]
                if words and not entity.fragments:
                    self._counts[self._key(words)][entity.type] += 1
        self._settle()
        return self

    def _key(self, words: Iterable[str]) -> tuple[str, ...]:
        return tuple(word.lower() for word in words) if self.lower else tuple(words)

    def _settle(self) -> None:
        """One type for each name, and the automaton that finds them."""
        self._types = {key: min(kinds, key=lambda kind: (-kinds[kind], kind)) for key, kinds in self._counts.items()}
        self._automaton = Automaton(self._types)

    def _tag(self, sentences: Sequence[Sentence]) -> list[list[Entity]]:
        return [self._look_up(sentence) for sentence in sentences]

    def _look_up(self, sentence: Sentence) -> list[Entity]:
        words, tokens = self._key(sentence.words), sentence.tokens
        return [
            Entity(tokens[start].start, tokens[end - 1].end, self._types[words[start:end]])
            for start, end in self._automaton.longest(words)
        ]

    def _save(self, folder: Path) -> None:
        names = [[list(key), dict(sorted(kinds.items()))] for key, kinds in sorted(self._counts.items())]
        write_atomically(folder / "names.json", json.dumps({"lower": self.lower, "names": names}, ensure_ascii=False))

    @classmethod
    def _load(cls, folder: Path) -> DictionaryTagger:
        saved = json.loads((folder / "names.json").read_text("utf-8"))
        tagger = cls(lower=saved["lower"])
        tagger._counts.update({tuple(key): Counter(kinds) for key, kinds in saved["names"]})
        tagger._settle()
        return tagger

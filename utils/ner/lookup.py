"""Names looked up and patterns matched: `DictionaryTagger` and `RegexTagger`."""

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from utils.files import write_atomically
from utils.ner.sentence import Entity, tokenize
from utils.ner.tagger import Folder, Sentences, Tagger, say_losses
from utils.ner.tags import token_spans
from utils.ner.words import Automaton, leftmost_longest


class DictionaryTagger(Tagger):
    """Marks the longest names that begin at each token, from left to right, without overlap.

    `fit` learns every mention of train and dev; of a name seen with several types the most frequent one is taken, of
    equally frequent ones the first in the alphabet. Names are compared as sequences of tokens: spaces do not matter.

    names: further names, as (text, type); they count as seen once. lower: compare without regard to case.
    """

    name = "dictionary"

    def __init__(self, names: Iterable[tuple[str, str]] = (), lower: bool = False) -> None:
        self.lower = lower
        self._counts: dict[tuple[str, ...], Counter] = defaultdict(Counter)
        self._add(([token.text for token in tokenize(text)], kind) for text, kind in names)

    def __len__(self) -> int:
        """How many names it knows."""
        return len(self._types)

    def fit(self, train: Sentences, dev: Sentences = (), folder: Folder = None) -> "DictionaryTagger":
        """Learn the mentions of train and dev too. How many cannot be learnt is printed; ValueError where all."""
        say_losses([*train, *dev], layers=sys.maxsize)
        spans = ((sentence.words, span) for sentence in (*train, *dev) for span in token_spans(sentence).values())
        self._add((words[start:end], kind) for words, (start, end, kind) in spans)
        return self

    def _key(self, words: Iterable[str]) -> tuple[str, ...]:
        return tuple(word.lower() for word in words) if self.lower else tuple(words)

    def _add(self, names: Iterable[tuple[Sequence[str], str]]) -> None:
        """Count them; then one type for each name, and the automaton that finds them."""
        for words, kind in names:
            if words:
                self._counts[self._key(words)][kind] += 1
        self._types = {key: min(kinds, key=lambda kind: (-kinds[kind], kind)) for key, kinds in self._counts.items()}
        self._automaton = Automaton(self._types)

    def _tag(self, sentences: Sentences) -> list[list[Entity]]:
        tagged = []
        for sentence in sentences:
            words, tokens = self._key(sentence.words), sentence.tokens
            found = [(start, end, self._types[words[start:end]]) for start, end in self._automaton.longest(words)]
            tagged.append([Entity(tokens[start].start, tokens[end - 1].end, kind) for start, end, kind in found])
        return tagged

    def _save(self, folder: Path) -> None:
        names = [[list(key), dict(sorted(kinds.items()))] for key, kinds in sorted(self._counts.items())]
        write_atomically(folder / "names.json", json.dumps({"lower": self.lower, "names": names}, ensure_ascii=False))

    @classmethod
    def _load(cls, folder: Path) -> "DictionaryTagger":
        saved = json.loads((folder / "names.json").read_text("utf-8"))
        tagger = cls(lower=saved["lower"])
        tagger._counts.update({tuple(key): Counter(kinds) for key, kinds in saved["names"]})
        tagger._add(())
        return tagger


class RegexTagger(Tagger):
    """Marks what its patterns match in the text; where matches overlap, the first and then the longest stays.

    patterns: for each type a regular expression (else ValueError). Matches of no characters are left out.
    """

    name = "regex"

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self.patterns = dict(patterns)
        self._compiled = {}
        for kind, pattern in self.patterns.items():
            try:
                self._compiled[kind] = re.compile(pattern)
            except re.error as error:
                raise ValueError(f"the pattern of {kind}, {pattern!r}, is no regular expression: {error}") from error

    def fit(self, train: Sentences = (), dev: Sentences = (), folder: Folder = None) -> "RegexTagger":
        """Nothing to learn: the patterns are the rules."""
        return self

    def _tag(self, sentences: Sentences) -> list[list[Entity]]:
        tagged = []
        for sentence in sentences:
            found = ((kind, match) for kind, rule in self._compiled.items() for match in rule.finditer(sentence.text))
            spans = [(*match.span(), kind) for kind, match in found if match.group()]
            tagged.append([Entity(*span) for span in leftmost_longest(spans)])
        return tagged

    def _save(self, folder: Path) -> None:
        write_atomically(folder / "patterns.json", json.dumps(self.patterns, ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def _load(cls, folder: Path) -> "RegexTagger":
        return cls(json.loads((folder / "patterns.json").read_text("utf-8")))

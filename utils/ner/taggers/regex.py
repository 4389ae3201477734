"""RegexTagger: a regular expression for each type."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.files import write_atomically
from utils.ner.automaton import leftmost_longest
from utils.ner.tagger import Tagger
from utils.ner.types import Entity, Sentence


class RegexTagger(Tagger):
    """Marks what its patterns match in the text; where matches overlap, the first and then the longest stays.

    Args:
        patterns: for each type a regular expression (Python's `re`). Matches of no characters are left out.
    Raises:
        ValueError: a pattern that is no regular expression.
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

    def fit(
        self, train: Sequence[Sentence] = (), dev: Sequence[Sentence] = (), folder: Path | None = None
    ) -> RegexTagger:
        """Nothing to learn: the patterns are the rules."""
        return self

    def _tag(self, sentences: Sequence[Sentence]) -> list[list[Entity]]:
        return [self._search(sentence.text) for sentence in sentences]

    def _search(self, text: str) -> list[Entity]:
        matches = [
            (*match.span(), kind)
            for kind, pattern in self._compiled.items()
            for match in pattern.finditer(text)
            if match.group()
        ]
        return [Entity(*one) for one in leftmost_longest(matches)]

    def _save(self, folder: Path) -> None:
        write_atomically(folder / "patterns.json", json.dumps(self.patterns, ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def _load(cls, folder: Path) -> RegexTagger:
        return cls(json.loads((folder / "patterns.json").read_text("utf-8")))

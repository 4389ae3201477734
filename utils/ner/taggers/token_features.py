"""What a network is told of a token besides its characters: how it is written, and whether a lexicon has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.files import write_atomically
from utils.ner.features import LexiconMatcher
from utils.ner.lexicons import Lexicon
from utils.ner.sentence import Sentence

LABELS = ("", "B", "I", "E", "S")
SHAPES = ("padding", "lower", "Title", "UPPER", "One capital", "mIxed", "digits", "d1gits inside", "other")


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
    """Numbers for every token of a sentence, 0 being for padding: its shape, and for each list of names whether the
    token stands in one of them (outside, begin, inside, end, single), looked up as `LexiconMatcher` does."""

    def __init__(self, lexicons: Sequence[Lexicon] = ()) -> None:
        self.lexicons = tuple(lexicons)
        self._matcher = LexiconMatcher(self.lexicons)
        self._shapes = {shape: number for number, shape in enumerate(SHAPES)}

    @property
    def sizes(self) -> list[int]:
        """How many numbers there are for a shape, and for each lexicon."""
        return [len(SHAPES), *[len(LABELS) + 1] * len(self.lexicons)]

    def __call__(self, sentence: Sentence) -> list[list[int]]:
        """One list (tokens) for each of `sizes`."""
        words = sentence.words
        labels = self._matcher.labels(words)
        found = [[LABELS.index(label) + 1 for label in labels[one.name]] for one in self.lexicons]
        return [[self._shapes[shape_of(word)] for word in words], *found]

    def save(self, folder: Path) -> None:
        lists = [lexicon.to_json() for lexicon in self.lexicons]
        write_atomically(folder / "lexicons.json", json.dumps(lists, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> TokenFeatures:
        saved = json.loads((folder / "lexicons.json").read_text("utf-8"))
        return cls(list(map(Lexicon.from_json, saved)))


class FeatureEmbedding(nn.Module):
    """Features (B, T, F) as vectors (B, T, width)."""

    def __init__(self, sizes: Sequence[int], size: int = 12) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, size, padding_idx=0) for count in sizes)
        self.width = size * len(sizes)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([table(numbers) for table, numbers in zip(self.tables, features.unbind(-1))], dim=-1)

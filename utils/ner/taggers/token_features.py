"""What a network is told of a token besides its characters: how it is written, and whether a lexicon has it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.ner.formats.files import write_atomically
from utils.ner.taggers.dictionary import DictionaryTagger
from utils.ner.tags import to_tags
from utils.ner.types import Sentence

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
    """Numbers (shape, lexicon tag) for every token of a sentence; 0 is for padding.

    The lexicon tag is the BIO tag that looking up `names`, as (text, type) and without regard to case, gives.
    """

    def __init__(self, names: Iterable[tuple[str, str]] = ()) -> None:
        self.names = [tuple(name) for name in names]
        types = sorted({kind for _, kind in self.names})
        tags = ["O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]
        self._dictionary = DictionaryTagger(self.names, lower=True)
        self._tags = {tag: number for number, tag in enumerate(tags, 1)}
        self._shapes = {shape: number for number, shape in enumerate(SHAPES)}

    @property
    def sizes(self) -> tuple[int, int]:
        """How many numbers there are for a shape and for a lexicon tag."""
        return len(SHAPES), len(self._tags) + 1

    def __call__(self, sentence: Sentence) -> tuple[list[int], list[int]]:
        """The shapes and the lexicon tags of the tokens."""
        shapes = [self._shapes[shape_of(word)] for word in sentence.words]
        if not self.names:
            return shapes, [1] * len(shapes)
        (found,) = self._dictionary.predict([sentence])
        return shapes, [self._tags[tag] for tag in to_tags(found)]

    def save(self, folder: Path) -> None:
        write_atomically(folder / "lexicon.json", json.dumps(self.names, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> TokenFeatures:
        return cls(json.loads((folder / "lexicon.json").read_text("utf-8")))


class FeatureEmbedding(nn.Module):
    """Shapes and lexicon tags (B, T) as vectors (B, T, width)."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        super().__init__()
        widths = (12, 12 if sizes[1] > 2 else 0)  # without a lexicon there is only O to tell
        self.tables = nn.ModuleList(nn.Embedding(size, width, padding_idx=0) for size, width in zip(sizes, widths))
        self.width = sum(widths)

    def forward(self, shapes: Tensor, lexicon: Tensor) -> Tensor:
        return torch.cat([table(numbers) for table, numbers in zip(self.tables, (shapes, lexicon))], dim=-1)

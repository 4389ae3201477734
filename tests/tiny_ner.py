"""A corpus of one rule and an encoder of a few thousand weights, made on the fly."""

import random
from pathlib import Path

from utils.ner.encoders import make_random_encoder
from utils.ner.sentence import Entity, Sentence


def make_corpus(count: int = 60, seed: int = 0) -> list[Sentence]:
    """Genes are capitals with a digit, diseases end in -itis, and "severe" before a disease belongs to it."""
    draw = random.Random(seed)
    sentences = []
    for number in range(count):
        gene = draw.choice(["BRC", "TPX", "KRA", "MYB"]) + str(draw.randint(1, 9))
        disease = draw.choice(["hepat", "arthr", "derm", "neur"]) + "itis"
        severe = draw.random() < 0.5
        words = ["mutated", gene, "causes", *(["severe"] if severe else []), disease, "in", "mice"]
        spans = [(1, 2, "Gene"), (3, 5 if severe else 4, "Disease")]
        sentences.append(Sentence.from_words(words, spans, f"s{number}"))
    return sentences


def make_encoder(folder: Path) -> Path:
    """A random BERT of a few thousand weights; frequent words are pieces, genes and diseases are cut into letters."""
    texts = [sentence.text for sentence in make_corpus()]
    return make_random_encoder(folder, texts, width=32, pieces=64, positions=64)


def make_nested(count: int = 60, seed: int = 0) -> list[Sentence]:
    """The tiny corpus, where in "severe hepatitis" the last word is a name, too."""
    sentences = []
    for one in make_corpus(count, seed):
        inner = [Entity(e.end - len(e.text.split()[-1]), e.end, "Part") for e in one.entities if " " in e.text]
        sentences.append(one.with_entities([*one.entities, *inner]))
    return sentences

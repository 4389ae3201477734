"""A corpus of one rule and an encoder of a few thousand weights, made on the fly."""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from utils.ner.sentence import Sentence

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


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


def make_encoder(folder: Path, positions: int = 64) -> Path:
    """A random BERT with 2 layers and a WordPiece vocabulary of single letters and a few words."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.-,()"
    words = ["mutated", "causes", "severe", "in", "mice", "hepat", "arthr", "##itis", "brc", "tpx"]
    vocabulary = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=positions, **names).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=positions,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder

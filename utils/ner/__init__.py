"""Biomedical named entity recognition: corpora, formats, tags, scores, taggers."""

from importlib import import_module

from utils.ner.automaton import Automaton
from utils.ner.bc2 import OfficialGold, read_official, write_official
from utils.ner.corpora import Corpus, corpus_names, load_corpus
from utils.ner.crf import CRFTagger
from utils.ner.evaluation import Report, Scores, evaluate
from utils.ner.features import WordFeatures
from utils.ner.formats.any import read_sentences
from utils.ner.formats.brat import read_brat, write_brat
from utils.ner.formats.conll import read_conll, write_conll
from utils.ner.formats.files import FormatError
from utils.ner.formats.jsonl import read_jsonl, write_jsonl
from utils.ner.formats.pubtator import read_pubtator, write_pubtator
from utils.ner.lexicons import Lexicon, lexicon_names, load_lexicon
from utils.ner.postprocess import postprocess
from utils.ner.tagger import Tagger, load_tagger, make_tagger
from utils.ner.taggers.dictionary import DictionaryTagger
from utils.ner.taggers.regex import RegexTagger
from utils.ner.tags import (
    Loss,
    TagError,
    convert_tags,
    from_tags,
    losses,
    spans_to_tags,
    tags_to_spans,
    to_layers,
    to_tags,
)
from utils.ner.text import Token, join_words, tokenize
from utils.ner.types import Entity, Sentence

# Most of these load transformers, which takes seconds; they are imported when they are first asked for.
LAZY = {
    "BiLSTMCRFTagger": "utils.ner.bilstm_crf",
    "LinearChainCRF": "utils.ner.chain",
    "TransformerTagger": "utils.ner.transformer",
    "continue_pretraining": "utils.ner.pretraining",
}


def __getattr__(name: str) -> object:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LAZY[name]), name)


__all__ = [
    "Automaton",
    "BiLSTMCRFTagger",
    "CRFTagger",
    "Corpus",
    "DictionaryTagger",
    "Entity",
    "FormatError",
    "Lexicon",
    "LinearChainCRF",
    "Loss",
    "OfficialGold",
    "RegexTagger",
    "Report",
    "Scores",
    "Sentence",
    "TagError",
    "Tagger",
    "Token",
    "TransformerTagger",
    "WordFeatures",
    "continue_pretraining",
    "convert_tags",
    "corpus_names",
    "evaluate",
    "from_tags",
    "join_words",
    "lexicon_names",
    "load_corpus",
    "load_lexicon",
    "load_tagger",
    "losses",
    "make_tagger",
    "postprocess",
    "read_brat",
    "read_conll",
    "read_jsonl",
    "read_official",
    "read_pubtator",
    "read_sentences",
    "spans_to_tags",
    "tags_to_spans",
    "to_layers",
    "to_tags",
    "tokenize",
    "write_brat",
    "write_conll",
    "write_jsonl",
    "write_official",
    "write_pubtator",
]

"""Taggers, all with fit, predict, save and load. The neural ones are not imported here: they load transformers."""

from utils.ner.taggers.base import Tagger
from utils.ner.taggers.crf import CRFTagger
from utils.ner.taggers.dictionary import DictionaryTagger
from utils.ner.taggers.regex import RegexTagger
from utils.ner.taggers.registry import load_tagger, make_tagger, model_names, tagger_class, tagger_names

__all__ = [
    "CRFTagger",
    "DictionaryTagger",
    "RegexTagger",
    "Tagger",
    "load_tagger",
    "make_tagger",
    "model_names",
    "tagger_class",
    "tagger_names",
]

"""Taggers, all with fit, predict, save and load."""

from utils.ner.taggers.base import Tagger
from utils.ner.taggers.dictionary import DictionaryTagger
from utils.ner.taggers.regex import RegexTagger

__all__ = ["DictionaryTagger", "RegexTagger", "Tagger"]

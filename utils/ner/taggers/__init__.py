"""Taggers, all with fit, predict, save and load; imported when first asked for."""

from importlib import import_module

_PLACES = {
    "CRFTagger": "utils.ner.taggers.crf",
    "DictionaryTagger": "utils.ner.lookup",
    "RegexTagger": "utils.ner.lookup",
    "Tagger": "utils.ner.taggers.base",
    "load_tagger": "utils.ner.taggers.registry",
    "make_tagger": "utils.ner.taggers.registry",
    "model_names": "utils.ner.taggers.registry",
    "tagger_class": "utils.ner.taggers.registry",
    "tagger_names": "utils.ner.taggers.registry",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)

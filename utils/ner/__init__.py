"""Biomedical named entity recognition: corpora, formats, tags, scores, taggers.

A name is imported when it is first asked for, so that reading a corpus does not load torch and transformers.
"""

from importlib import import_module

PUBLIC = {
    "sentence": ("Entity", "Sentence", "Token", "split_sentences", "tokenize"),
    "formats": ("read_sentences",),
    "formats.brat": ("read_brat", "write_brat"),
    "formats.conll": ("read_conll", "write_conll"),
    "formats.jsonl": ("read_jsonl", "write_jsonl"),
    "formats.pubtator": ("read_pubtator", "write_pubtator"),
    "corpora": ("load_corpus",),
    "lexicons": ("lexicon_names", "load_lexicon"),
    "display": ("to_spacy",),
    "tags": ("at_token_edges", "convert_tags", "from_tags", "losses", "spans_to_tags", "tags_to_spans", "to_tags"),
    "evaluation": ("difference", "evaluate"),
    "lookup": ("Automaton", "DictionaryTagger", "RegexTagger"),
    "features": ("WordFeatures",),
    "crf": ("CRFTagger",),
    "chain": ("LinearChainCRF",),
    "bilstm_crf": ("BiLSTMCRFTagger",),
    "transformer": ("TransformerTagger",),
    "diffusion_ner": ("DiffusionTagger",),
    "combine": ("BioTaggerGM", "CorrectedTagger", "VotingTagger"),
    "pretraining": ("continue_pretraining",),
    "tagger": ("Tagger", "load_tagger", "make_tagger"),
}
PLACES = {name: module for module, names in PUBLIC.items() for name in names}
__all__ = list(PLACES)


def __getattr__(name: str) -> object:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

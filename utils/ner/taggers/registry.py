"""Taggers by name: their classes, loading a saved one of whatever kind, and one of each kind with good settings."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from utils.ner.features import WordFeatures
from utils.ner.lexicons import Lexicon, lexicon_for, lexicon_names, load_lexicon
from utils.ner.lookup import DictionaryTagger
from utils.ner.taggers.base import Tagger, read_header

# Named, not imported: transformers is loaded only for a tagger that needs it.
CLASSES = {
    "regex": "utils.ner.lookup:RegexTagger",
    "dictionary": "utils.ner.lookup:DictionaryTagger",
    "crf": "utils.ner.taggers.crf:CRFTagger",
    "bilstm-crf": "utils.ner.taggers.bilstm_crf:BiLSTMCRFTagger",
    "transformer": "utils.ner.taggers.transformer:TransformerTagger",
    "voting": "utils.ner.taggers.voting:VotingTagger",
    "corrected": "utils.ner.taggers.corrected:CorrectedTagger",
    "biotagger-gm": "utils.ner.biotagger_gm:BioTaggerGM",
}
# Chosen on NCBI-disease's dev split.
TRANSFORMER = {
    "epochs": 8, "learning_rate": 3e-4, "new_rate": 3.0, "pooling": "mean", "crf": True, "scheme": "BIOES",
    "dropout": 0.3, "piece_dropout": 0.15,
}  # fmt: skip
UNTRAINED = ("regex", "corrected")  # one has nothing to learn, the other needs a tagger to correct


def tagger_names() -> list[str]:
    """The kinds that can be loaded."""
    return [name for name, place in CLASSES.items() if find_spec(place.split(":")[0])]


def model_names() -> list[str]:
    """The kinds that `make_tagger` can make."""
    return [name for name in tagger_names() if name not in UNTRAINED]


def tagger_class(name: str) -> type[Tagger]:
    """The class of a kind. Raises ValueError for an unknown one; the message lists the known ones."""
    if name not in tagger_names():
        raise ValueError(f"unknown tagger {name!r}; choose one of {', '.join(tagger_names())}")
    module, attribute = CLASSES[name].split(":")
    return getattr(import_module(module), attribute)


def load_tagger(folder: str | Path) -> Tagger:
    """The tagger that `save` wrote into a folder, of whatever kind.

    Raises:
        ValueError: no tagger there, an unknown kind, another version, or a damaged one.
    """
    name, _ = read_header(folder)
    return tagger_class(name).load(folder)


def make_tagger(name: str, types: Iterable[str] = (), seed: int = 0, **options) -> Tagger:
    """An untrained tagger with the settings that the course's benchmark uses.

    Args:
        name: one of `model_names()`.
        types: the entity types it will learn; they decide which lists of names a dictionary starts with.
        seed: of networks. A dictionary and a CRF draw no random number.
        options: handed to the class.
    Raises:
        ValueError: an unknown name.
    """
    if name not in model_names():
        raise ValueError(f"unknown model {name!r}; choose one of {', '.join(model_names())}")
    if name == "dictionary":
        return DictionaryTagger(*_listed(types), **options)
    if name == "crf":
        return tagger_class(name)(WordFeatures(lexicons=_true_lists()), **options)
    if name == "voting":
        return tagger_class(name)([make_tagger(one, types, seed) for one in ("crf", "transformer")], **options)
    if name == "biotagger-gm":
        return tagger_class(name)(lexicons=_true_lists(), **options)
    if name == "transformer":
        options = {**TRANSFORMER, "lexicons": _true_lists(), **options}
    return tagger_class(name)(seed=seed, **options)


def _true_lists() -> tuple[Lexicon, ...]:
    """Lists that do not come from training sentences: there, every name would be found, and look-up trusted blindly."""
    return tuple(lexicon for lexicon in map(load_lexicon, lexicon_names()) if not lexicon.stands_in)


def _listed(types: Iterable[str]) -> tuple[list[tuple[str, str]], bool]:
    """(name, type) pairs for the types that a list exists for, and whether case is to be disregarded."""
    wanted = {kind: lexicon_for(kind) for kind in types}
    lists = {name: load_lexicon(name) for name in sorted({name for name in wanted.values() if name})}
    pairs = [pair for kind, name in wanted.items() if name for pair in lists[name].typed(kind)]
    return pairs, bool(lists) and all(lexicon.lower for lexicon in lists.values())

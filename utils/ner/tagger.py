"""What every tagger can do (fit, predict, save, load), and taggers by name."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from utils import ner
from utils.files import ROOT, check_choice, sha256_of, write_atomically
from utils.ner.lexicons import lexicon_for, lexicon_names, load_lexicon
from utils.ner.sentence import Entity, Sentence
from utils.ner.tags import lost_to_tags, spans_to_tags, token_spans

HEADER = "tagger.json"
READY = ROOT / "data" / "checkpoints" / "tagger"  # of genes, diseases and chemicals; its card is tagger.md beside it
# Names of `utils.ner`, which imports a tagger, and with it torch or transformers, only when it is asked for.
CLASSES = {
    "regex": "RegexTagger",
    "dictionary": "DictionaryTagger",
    "crf": "CRFTagger",
    "bilstm-crf": "BiLSTMCRFTagger",
    "transformer": "TransformerTagger",
    "diffusion": "DiffusionTagger",
    "voting": "VotingTagger",
    "corrected": "CorrectedTagger",
}
MODELS = ("dictionary", "crf", "bilstm-crf", "transformer", "diffusion", "biotagger-gm", "voting")  # of `make_tagger`
NETWORKS = ("bilstm-crf", "transformer", "diffusion")  # those that have a learning rate and a precision
VOTERS = ("crf", "biotagger-gm", "bilstm-crf", "transformer")  # the members of "voting"
# Chosen on NCBI-disease's dev split.
TRANSFORMER = dict(shapes=True, pooling="mean", crf=True, scheme="BIOES", dropout=0.3, piece_dropout=0.15)
TRANSFORMER |= dict(epochs=8, learning_rate=3e-4, new_rate=3)
Sentences = Sequence[Sentence]
Folder = str | Path | None


class Tagger(ABC):
    """A kind has a `name`, a `version` (raised when the saved form changes), `fit`, `_tag(sentences)`, which gives a
    list of entities for each, `_save(folder)`, and a class method `_load(folder)`."""

    name: str
    version = 1

    @abstractmethod
    def fit(self, train: Sentences, dev: Sentences = (), folder: Folder = None) -> Tagger:
        """Learn from `train`, choose on `dev`, return the tagger; after Ctrl-C the same call goes on from `folder`."""

    def predict(self, sentences: Sentences) -> list[Sentence]:
        """The same sentences, in order, with the entities found in them; those they came with are not looked at."""
        return [sentence.with_entities(found) for sentence, found in zip(sentences, self._tag(sentences), strict=True)]

    def save(self, folder: str | Path) -> None:
        """Write the tagger into a folder, made where there is none. Where a file cannot be written, none takes its
        place. The header, written last, names all with their SHA-256, by which `load` knows them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
            new = Path(temporary)
            self._save(new)
            paths = filter(Path.is_file, new.rglob("*"))
            files = {path.relative_to(new).as_posix(): sha256_of(path) for path in sorted(paths)}
            for name in files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(new / name, folder / name)
        header = {"tagger": self.name, "version": self.version, "files": files}
        write_atomically(folder / HEADER, json.dumps(header) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Tagger:
        """The tagger that `save` wrote. ValueError: none, one of another kind or version, or one that is not whole."""
        name, version, files = _read_header(folder)
        if (name, version) != (cls.name, cls.version):
            expected = f"{cls.name}, version {cls.version}; load it with its own class, or train and save it again"
            raise ValueError(f"{folder} holds a tagger {name}, version {version}; expected {expected}")
        try:
            for name, sha256 in files.items():
                if sha256_of(path := Path(folder, name)) != sha256:
                    raise ValueError(f"{path} is damaged or of another tagger: its SHA-256 is not the one in {HEADER}")
            return cls._load(Path(folder))
        except (OSError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{folder} is not whole: {error!r}; save the tagger again") from error


def _read_header(folder: str | Path) -> tuple[str, int, dict[str, str]]:
    try:
        header = json.loads(Path(folder, HEADER).read_text("utf-8"))
        return header["tagger"], header["version"], dict(header.get("files", {}))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder} holds no tagger: {HEADER} cannot be read ({error})") from error


def fingerprint(sentences: Sentences) -> str:
    """The first digits of a SHA-256 that changes with any text or entity."""
    content = repr([(sentence.text, sentence.tokens, sentence.entities) for sentence in sentences])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def learnable(train: Sentences, layers: int = 1) -> list[Sentence]:
    """The sentences with a token (none: ValueError), for a tagger that learns tags; losses as in `say_losses`."""
    if not (sentences := [sentence for sentence in train if sentence.tokens]):
        expected = "expected at least one sentence with a token"
        raise ValueError(f"nothing to learn from: {len(train)} sentences, none with a token; {expected}")
    say_losses(train, layers)
    return sentences


def say_losses(sentences: Sentences, layers: int = 1) -> None:
    """Print how many entities so many layers of tags cannot hold, by kind. ValueError where that leaves none."""
    lost, given = lost_to_tags(sentences, layers), sum(len(sentence.entities) for sentence in sentences)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in lost.most_common())
    said = f"{lost.total():,} of {given:,} entities cannot be learnt: {kinds}"
    if lost and lost.total() == given:
        advice = "`tags.at_token_edges` moves misaligned edges to those of the tokens"
        raise ValueError(f"nothing to learn from: {said} (`tags.losses` lists them); {advice}")
    if lost:
        print(said)


def entity_confidence(tagger: Tagger, predicted: Sentences) -> list[np.ndarray]:
    """How sure a tagger with `predict_proba` is of entities, its own or any others: for each sentence an array
    (entities, 2) of lower and upper bounds in [0, 1]; both 0 for an entity that tags cannot hold, or of unknown tags.

    With p_k the marginal probability of an entity's tag at its k-th token, and under BIO, whose tags leave it open, one
    more p_k that it ends there, all hold together with a probability between max(0, 1 - sum_k (1 - p_k)) and min_k p_k
    (the bounds of Frechet). The upper one is the `score` of the entities that such a tagger predicts.
    """
    return [_bounds(tagger, *pair) for pair in zip(predicted, tagger.predict_proba(predicted), strict=True)]


def scored(tagger: Tagger, sentence: Sentence, marginals: np.ndarray) -> list[Entity]:
    """The sentence's entities with their scores, from the probabilities (tokens, K) of the tagger's tags."""
    scores = _bounds(tagger, sentence, marginals)[:, 1].clip(0, 1).tolist()  # sums of floats may be a little above 1
    return [replace(entity, score=score) for entity, score in zip(sentence.entities, scores)]


def _bounds(tagger: Tagger, sentence: Sentence, marginals: np.ndarray) -> np.ndarray:
    columns = dict(zip(tagger.tags, np.asarray(marginals, float).T))
    never, backward = np.zeros(len(marginals)), getattr(tagger, "backward", False)
    rows, spans = [], token_spans(sentence) if sentence.entities else {}
    for entity in sentence.entities:
        if entity not in spans:
            rows.append((0.0, 0.0))
            continue
        start, end, kind = spans[entity]
        tags = spans_to_tags([(0, end - start, kind)], end - start, tagger.scheme)[:: -1 if backward else 1]
        p = [columns.get(tag, never)[place] for place, tag in enumerate(tags, start)]
        # The next token in the order of reading, which may be the one to the left.
        behind = start - 1 if backward else end
        if 0 <= behind < len(marginals) and not {tags[0][0], tags[-1][0]} & {"E", "S"}:
            p.append(1 - columns.get(f"I-{kind}", never)[behind])
        rows.append((max(0.0, 1 - (1 - np.array(p)).sum()), min(p)))
    return np.array(rows).reshape(-1, 2)


def load_tagger(folder: Folder = None) -> Tagger:
    """The tagger that `save` wrote into a folder, of whatever kind; the course's ready one of genes, diseases and
    chemicals where none is named. Raises ValueError as `Tagger.load` does, or says how the ready one is made."""
    folder = READY if folder is None else folder
    if folder == READY and not (READY / HEADER).exists():
        raise ValueError(f"there is no ready tagger in {READY}; `python data/make_ready_tagger.py` makes it")
    name, *_ = _read_header(folder)
    check_choice("tagger", name, CLASSES)
    return getattr(ner, CLASSES[name]).load(folder)


def make_tagger(name: str, types: Iterable[str] = (), seed: int = 0, **options) -> Tagger:
    """An untrained tagger, one of `MODELS`, with the settings that the course's benchmark uses.

    types: of entities; they decide which lists of names a dictionary starts with. seed: of networks; others draw no
    random number. Raises ValueError: an unknown name. OSError: no pretrained encoder here nor on the hub.
    """
    check_choice("model", name, MODELS)
    if name == "dictionary":
        wanted = {kind: found for kind in types if (found := lexicon_for(kind))}
        lists = {found: load_lexicon(found) for found in sorted({*wanted.values()})}
        names = [pair for kind, found in wanted.items() for pair in lists[found].typed(kind)]
        lower = bool(lists) and all(lexicon.lower for lexicon in lists.values())
        return ner.DictionaryTagger(names, lower, **options)
    if name == "voting":
        return ner.VotingTagger([make_tagger(member, types, seed) for member in VOTERS], **options)
    # In lists that come from training sentences every name would be found, and look-up trusted blindly.
    lexicons = tuple(lexicon for lexicon in map(load_lexicon, lexicon_names()) if not lexicon.stands_in)
    if name == "crf":
        return ner.CRFTagger(ner.WordFeatures(lexicons=lexicons), **options)
    if name == "biotagger-gm":
        return ner.BioTaggerGM(lexicons, **options)
    if name != "bilstm-crf":
        from utils.ner.encoders import find_encoder

        find_encoder(options.get("encoder"))  # missed now, not after the trainings of a vote's other members
    recipe = TRANSFORMER if name == "transformer" else {}
    return getattr(ner, CLASSES[name])(**{"seed": seed, "lexicons": lexicons, **recipe, **options})

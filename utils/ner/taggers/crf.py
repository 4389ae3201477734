"""CRFTagger: a linear-chain conditional random field (Lafferty, McCallum & Pereira 2001) trained by CRFsuite."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pycrfsuite
from tqdm.auto import tqdm

from utils.files import write_atomically
from utils.ner.features import WordFeatures
from utils.ner.lexicons import Lexicon
from utils.ner.sentence import Entity, Sentence
from utils.ner.taggers.base import Tagger
from utils.ner.tags import SCHEMES, spans_to_tags, tags_to_spans, to_tags

Features = Callable[[list[str]], list[list[str]]]


class CRFTagger(Tagger):
    """Learns a weight for each feature with each tag, and for each pair of tags; marks the most probable tag sequence.

    Training is L-BFGS (with c1 > 0 its variant for the L1 norm), which draws no random number: the same sentences give
    the same model, whatever the seed. It can be interrupted; CRFsuite cannot take up half-trained weights, so the
    tagger then is what it was before `fit`.

    Args:
        features: a callable from the words of a sentence to one list of feature strings for each word; `WordFeatures()`
            when None. Another callable is not saved with the model: after `load`, set `tagger.features` again.
        scheme: "BIO" or "BIOES".
        c1, c2: weights of the L1 and the L2 penalty, at least 0. L1 makes most weights zero and the model small.
        iterations: L-BFGS iterations at most, at least 1.
        backward: read sentences from right to left. The tags are made for that direction, so "B" is an entity's last
            word. A chain has no direction of its own: under BIOES this is the same model up to the names of the tags,
            and only under BIO another one.
    Attributes:
        tags: the tags it knows, sorted; empty before `fit`.
    Raises:
        ValueError: an unknown scheme, or a number out of range.
    """

    name = "crf"

    def __init__(
        self,
        features: Features | None = None,
        scheme: str = "BIOES",
        c1: float = 0.05,
        c2: float = 0.05,
        iterations: int = 150,
        backward: bool = False,
    ) -> None:
        if scheme not in SCHEMES:
            raise ValueError(f"unknown scheme {scheme!r}; choose one of {', '.join(SCHEMES)}")
        if c1 < 0 or c2 < 0 or iterations < 1:
            raise ValueError(f"expected c1 >= 0, c2 >= 0 and iterations >= 1, got {c1}, {c2} and {iterations}")
        self.features: Features | None = WordFeatures() if features is None else features
        self.scheme, self.c1, self.c2, self.iterations = scheme, c1, c2, iterations
        self.backward = backward
        self.tags: list[str] = []
        self._model = b""

    # -- learning ----------------------------------------------------------------------------------

    def fit(self, train: Sequence[Sentence], dev: Sequence[Sentence] = (), progress: bool = True) -> CRFTagger:
        """Learn from `train`, with a bar; `dev` is not looked at, since nothing is chosen here.

        Of nested entities the longest is learnt, and those that tags cannot hold are left out (`tags.losses`).

        Raises:
            ValueError: no sentence with tokens, or features that are not one list a token.
        """
        sentences = [sentence for sentence in train if sentence.tokens]
        if not sentences:
            raise ValueError(f"nothing to learn from: {len(train)} sentences, none with a token")
        trainer = _Trainer(self.iterations, progress)
        trainer.select("lbfgs")
        trainer.set_params(
            {"c1": self.c1, "c2": self.c2, "max_iterations": self.iterations, "feature.possible_transitions": True}
        )
        for sentence in tqdm(sentences, "features", leave=False, disable=not progress):
            trainer.append(self._items(sentence), self._tags(sentence))
        with tempfile.TemporaryDirectory() as folder, trainer:
            trainer.train(str(Path(folder) / "model"))
            model = (Path(folder) / "model").read_bytes()
        if isinstance(self.features, WordFeatures):
            self.features.forget()  # tagging uses `_slim`, with a store of its own
        self._open(model)
        return self

    def _tags(self, sentence: Sentence) -> list[str]:
        if not self.backward:
            return to_tags(sentence, self.scheme, on_loss="drop")
        spans = tags_to_spans(to_tags(sentence, "BIO", on_loss="drop"))
        return spans_to_tags(self._turned(spans, sentence), len(sentence.tokens), self.scheme)

    @staticmethod
    def _turned(spans: list, sentence: Sentence) -> list:
        """Spans counted from the other end."""
        length = len(sentence.tokens)
        return [(length - end, length - start, kind) for start, end, kind in reversed(spans)]

    def _items(self, sentence: Sentence, features: Features | None = None) -> list[list[str]]:
        features = features or self.features
        if features is None:
            raise ValueError("this model was trained with features of its own; set `tagger.features` to them first")
        lists = features(sentence.words)
        if len(lists) != len(sentence.tokens):
            raise ValueError(
                f"features gave {len(lists)} lists for the {len(sentence.tokens)} tokens of sentence {sentence.id!r}"
            )
        return lists[::-1] if self.backward else lists

    def _open(self, model: bytes) -> None:
        self._model, self._crf = model, pycrfsuite.Tagger()
        self._crf.open_inmemory(model)
        self.tags = sorted(self._crf.labels())
        self._slim: Features | None = None

    # -- tagging -----------------------------------------------------------------------------------

    def _ready(self, sentence: Sentence) -> None:
        """Hand a sentence over to CRFsuite."""
        if not self._model:
            raise ValueError("this CRFTagger has learnt nothing yet; call fit(train) or load(folder) first")
        if self._slim is None and isinstance(self.features, WordFeatures):
            self._slim = self.features.only(self._crf.info().attributes)
        self._crf.set(self._items(sentence, self._slim))

    def _tag(self, sentences: Sequence[Sentence]) -> list[list[Entity]]:
        return [self._entities(sentence) if sentence.tokens else [] for sentence in sentences]

    def _entities(self, sentence: Sentence) -> list[Entity]:
        self._ready(sentence)
        spans = tags_to_spans(self._crf.tag(), self.scheme)
        if self.backward:
            spans = self._turned(spans, sentence)
        tokens = sentence.tokens
        return [Entity(tokens[start].start, tokens[end - 1].end, kind) for start, end, kind in spans]

    def predict_proba(self, sentences: Sequence[Sentence]) -> list[np.ndarray]:
        """For each sentence the marginal probability of each tag at each token, by forward and backward sums.

        Returns:
            Arrays (tokens, len(tags)), columns in the order of `tags`, rows summing to 1.
        """
        return [self._marginals(sentence) for sentence in sentences]

    def _marginals(self, sentence: Sentence) -> np.ndarray:
        places = range(len(sentence.tokens))
        if not places:
            return np.zeros((0, len(self.tags)))
        self._ready(sentence)
        marginals = np.array([[self._crf.marginal(tag, place) for tag in self.tags] for place in places])
        return marginals[::-1] if self.backward else marginals

    def confidence(self, sentences: Sequence[Sentence]) -> list[float]:
        """For each sentence the probability of its most probable tag sequence, in (0, 1]; 1 for an empty one."""
        return [self._best_probability(sentence) if sentence.tokens else 1.0 for sentence in sentences]

    def _best_probability(self, sentence: Sentence) -> float:
        self._ready(sentence)
        return self._crf.probability(self._crf.tag())

    # -- keeping -----------------------------------------------------------------------------------

    def _save(self, folder: Path) -> None:
        if not self._model:
            raise ValueError("this CRFTagger has learnt nothing yet; there is no model to save")
        own = self.features if isinstance(self.features, WordFeatures) else None
        about = {
            "scheme": self.scheme, "c1": self.c1, "c2": self.c2, "iterations": self.iterations,
            "backward": self.backward, "sha256": hashlib.sha256(self._model).hexdigest(),
            "features": own.options() if own else None,
            "lexicons": [lexicon.to_json() for lexicon in own.lexicons] if own else [],
        }  # fmt: skip
        write_atomically(folder / "model.crfsuite", self._model)
        write_atomically(folder / "crf.json", json.dumps(about, ensure_ascii=False) + "\n")

    @classmethod
    def _load(cls, folder: Path) -> CRFTagger:
        about = json.loads((folder / "crf.json").read_text("utf-8"))
        model = (folder / "model.crfsuite").read_bytes()
        # CRFsuite itself trusts the file's inner offsets, so damage is found here.
        if hashlib.sha256(model).hexdigest() != about["sha256"]:
            raise ValueError(f"{folder / 'model.crfsuite'} is damaged: its SHA-256 is not the one in crf.json")
        tagger = cls(None, about["scheme"], about["c1"], about["c2"], about["iterations"], about["backward"])
        tagger.features = None
        if about["features"] is not None:
            lexicons = tuple(map(Lexicon.from_json, about["lexicons"]))
            options = about["features"] | {"grams": tuple(about["features"]["grams"])}
            tagger.features = WordFeatures(**options, lexicons=lexicons)
        tagger._open(model)
        return tagger


class _Trainer(pycrfsuite.Trainer):
    """CRFsuite's trainer with a bar; a context manager, so that an interruption ends the bar too."""

    def __init__(self, iterations: int, progress: bool) -> None:
        super().__init__(verbose=False)
        self._iterations, self._progress = iterations, progress

    def message(self, line: str) -> None:
        """CRFsuite calls this with each line of its log; Ctrl-C is raised here and ends the training."""
        if line.startswith("***** Iteration"):
            self._bar.update()
        elif line.startswith("Loss: "):
            self._bar.set_postfix_str(f"loss {float(line[6:]):.0f}", refresh=False)

    def __enter__(self) -> _Trainer:
        self._bar = tqdm(
            total=self._iterations, desc="CRF", unit=" iterations", disable=not self._progress, leave=False
        )
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

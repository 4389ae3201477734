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
from utils.ner.tagger import Tagger, read_checked
from utils.ner.tags import SCHEMES, spans_to_tags, tags_to_spans, to_tags

Features = Callable[[list[str]], list[list[str]]]


class CRFTagger(Tagger):
    """Learns a weight for each feature with each tag, and for each pair of tags; marks the most probable tag sequence.

    Training is L-BFGS (with c1 > 0 its variant for the L1 norm), which draws no random number: the same sentences give
    the same model, whatever the seed.

    Args:
        features: a callable from the words of a sentence to one list of feature strings for each word; `WordFeatures()`
            when None. Another callable is not saved with the model: after `load`, set `tagger.features` again.
        scheme: "BIO" or "BIOES".
        c1, c2: weights of the L1 and the L2 penalty, at least 0. L1 makes most weights zero and the model small.
        iterations: L-BFGS iterations at most, at least 1.
        backward: read sentences from right to left. The tags are made for that direction, so "B" is an entity's last
            word. A chain has no direction of its own: under BIOES this is the same model up to the names of the tags,
            and only under BIO another one.
        progress: whether `fit` shows a bar.
    Attributes:
        tags: the K tags it knows, sorted; empty before `fit`.
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
        progress: bool = True,
    ) -> None:
        if scheme not in SCHEMES:
            raise ValueError(f"unknown scheme {scheme!r}; choose one of {', '.join(SCHEMES)}")
        if c1 < 0 or c2 < 0 or iterations < 1:
            raise ValueError(f"expected c1 >= 0, c2 >= 0 and iterations >= 1, got {c1}, {c2} and {iterations}")
        self.features: Features | None = WordFeatures() if features is None else features
        self.scheme, self.c1, self.c2, self.iterations = scheme, c1, c2, iterations
        self.backward, self.progress = backward, progress
        self.tags: list[str] = []
        self._model = b""

    # -- learning ----------------------------------------------------------------------------------

    def fit(
        self, train: Sequence[Sentence], dev: Sequence[Sentence] = (), folder: str | Path | None = None
    ) -> CRFTagger:
        """Learn from `train`. `dev` is not looked at, since nothing is chosen here, nor is `folder`: CRFsuite cannot
        take up half-trained weights, so after an interrupt the tagger is what it was before.

        Of nested entities the longest is learnt, and those that tags cannot hold are left out (`tags.losses`).

        Raises:
            ValueError: no sentence with tokens, or features that are not one list a token.
        """
        sentences = [sentence for sentence in train if sentence.tokens]
        if not sentences:
            raise ValueError(f"nothing to learn from: {len(train)} sentences, none with a token")
        with tqdm(desc="CRF", unit=" iterations", total=self.iterations, disable=not self.progress, leave=False) as bar:
            trainer = _Trainer(bar)
            trainer.select("lbfgs")
            trainer.set_params(
                {"c1": self.c1, "c2": self.c2, "max_iterations": self.iterations, "feature.possible_transitions": True}
            )
            for sentence in sentences:
                tags = self.tags_of(sentence)
                trainer.append(self._items(sentence), tags[::-1] if self.backward else tags)
            with tempfile.TemporaryDirectory() as temporary:
                trainer.train(str(Path(temporary) / "model"))
                self._open((Path(temporary) / "model").read_bytes())
        return self

    def tags_of(self, sentence: Sentence) -> list[str]:
        """The tags of the sentence's entities as this tagger would learn them, one a token, from left to right."""
        if not self.backward:
            return to_tags(sentence, self.scheme, on_loss="drop")
        spans = tags_to_spans(to_tags(sentence, "BIO", on_loss="drop"))
        return spans_to_tags(_turned(spans, sentence), len(sentence.tokens), self.scheme)[::-1]

    def _items(self, sentence: Sentence) -> list[list[str]]:
        """The features of each token, in the order of reading."""
        if self.features is None:
            raise ValueError("this model was trained with features of its own; set `tagger.features` to them first")
        lists = self.features(sentence.words)
        if len(lists) != len(sentence.tokens):
            raise ValueError(
                f"features gave {len(lists)} lists for the {len(sentence.tokens)} tokens of sentence {sentence.id!r}"
            )
        return lists[::-1] if self.backward else lists

    def _open(self, model: bytes) -> None:
        self._model, self._crf = model, pycrfsuite.Tagger()
        self._crf.open_inmemory(model)
        self.tags = sorted(self._crf.labels())

    # -- tagging -----------------------------------------------------------------------------------

    def _set(self, sentence: Sentence) -> None:
        """Hand a sentence over to CRFsuite."""
        if not self._model:
            raise ValueError("this CRFTagger has learnt nothing yet; call fit(train) or load(folder) first")
        self._crf.set(self._items(sentence))

    def _tag(self, sentences: Sequence[Sentence]) -> list[list[Entity]]:
        return [self._entities(sentence) if sentence.tokens else [] for sentence in sentences]

    def _entities(self, sentence: Sentence) -> list[Entity]:
        self._set(sentence)
        spans = tags_to_spans(self._crf.tag(), self.scheme)
        if self.backward:
            spans = _turned(spans, sentence)
        tokens = sentence.tokens
        return [Entity(tokens[start].start, tokens[end - 1].end, kind) for start, end, kind in spans]

    def predict_proba(self, sentences: Sequence[Sentence]) -> list[np.ndarray]:
        """For each sentence the marginal probability of each tag at each token, by forward and backward sums: an array
        (tokens, K), columns in the order of `tags`, rows summing to 1."""
        return [self._marginals(sentence) for sentence in sentences]

    def _marginals(self, sentence: Sentence) -> np.ndarray:
        places = range(len(sentence.tokens))
        if not places:
            return np.zeros((0, len(self.tags)))
        self._set(sentence)
        marginals = np.array([[self._crf.marginal(tag, place) for tag in self.tags] for place in places])
        return marginals[::-1] if self.backward else marginals

    def confidence(self, sentences: Sequence[Sentence]) -> list[float]:
        """For each sentence the probability of its most probable tag sequence, in (0, 1]; 1 for an empty one."""
        return [self._best_probability(sentence) if sentence.tokens else 1.0 for sentence in sentences]

    def _best_probability(self, sentence: Sentence) -> float:
        self._set(sentence)
        return self._crf.probability(self._crf.tag())

    # -- keeping -----------------------------------------------------------------------------------

    def _save(self, folder: Path) -> None:
        if not self._model:
            raise ValueError("this CRFTagger has learnt nothing yet; there is no model to save")
        own = self.features if isinstance(self.features, WordFeatures) else None
        about = {
            "options": {name: getattr(self, name) for name in ("scheme", "c1", "c2", "iterations", "backward")},
            "features": own and own.options,
            "lexicons": [lexicon.to_json() for lexicon in own.lexicons] if own else [],
            "sha256": hashlib.sha256(self._model).hexdigest(),
        }
        write_atomically(folder / "model.crfsuite", self._model)
        write_atomically(folder / "crf.json", json.dumps(about, ensure_ascii=False) + "\n")

    @classmethod
    def _load(cls, folder: Path) -> CRFTagger:
        about = json.loads((folder / "crf.json").read_text("utf-8"))
        tagger = cls(None, **about["options"])
        tagger.features = None
        if about["features"]:
            tagger.features = WordFeatures(**about["features"], lexicons=map(Lexicon.from_json, about["lexicons"]))
        # CRFsuite itself trusts the file's inner offsets, so damage is found here.
        tagger._open(read_checked(folder / "model.crfsuite", about["sha256"]))
        return tagger


def _turned(spans: list, sentence: Sentence) -> list:
    """Spans (start, end, type) counted from the other end of the sentence."""
    length = len(sentence.tokens)
    return [(length - end, length - start, kind) for start, end, kind in reversed(spans)]


class _Trainer(pycrfsuite.Trainer):
    """CRFsuite's trainer with a bar."""

    def __init__(self, bar: tqdm) -> None:
        super().__init__(verbose=False)
        self._bar = bar

    def message(self, line: str) -> None:
        """CRFsuite calls this with each line of its log; Ctrl-C is raised here and ends the training."""
        if line.startswith("***** Iteration"):
            self._bar.update()
        elif line.startswith("Loss: "):
            self._bar.set_postfix_str(f"loss {float(line[6:]):.0f}", refresh=False)

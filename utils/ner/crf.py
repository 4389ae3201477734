"""CRFTagger: a linear-chain conditional random field (Lafferty, McCallum & Pereira 2001) trained by CRFsuite."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pycrfsuite
from tqdm.auto import tqdm

from utils.files import check_choice, write_atomically
from utils.ner.features import WordFeatures
from utils.ner.lexicons import Lexicon
from utils.ner.sentence import Entity, Sentence
from utils.ner.tagger import Folder, Sentences, Tagger, learnable, scored
from utils.ner.tags import SCHEMES, from_tags, spans_to_tags, tags_to_spans, to_tags


class CRFTagger(Tagger):
    """Learns a weight for each feature with each tag, and for each pair of tags; marks the most probable tag sequence.
    Training is L-BFGS (with c1 > 0 its variant for the L1 norm), which draws no random number.

    features: a callable from the words of a sentence to one list of feature strings for each word; `WordFeatures()`
        when None. Another callable is not saved with the model: after `load`, set `tagger.features` again.
    scheme: "BIO" or "BIOES". iterations: at most, at least 1. progress: whether `fit` shows a bar.
    delta: training ends earlier where ten iterations lower the loss by less than this share of it; 0: never.
    c1, c2: weights of the L1 and the L2 penalty, at least 0. L1 makes most weights zero and the model small.
    backward: read from right to left: "B" is an entity's last word. Under BIOES that only renames the tags.
    Attribute `tags`: the K tags it knows, sorted; empty before `fit`.
    Raises ValueError: an unknown scheme, or a number out of range.
    """

    name = "crf"
    version = 2  # 1 had a SHA-256 of its own

    def __init__(
        self,
        features: Callable[[list[str]], list[list[str]]] | None = None,
        scheme: str = "BIOES",
        c1: float = 0.05,
        c2: float = 0.05,
        iterations: int = 150,
        delta: float = 0.05,
        backward: bool = False,
        progress: bool = True,
    ) -> None:
        check_choice("scheme", scheme, SCHEMES)
        if min(c1, c2, delta) < 0 or iterations < 1:
            expected = "c1 >= 0, c2 >= 0, delta >= 0 and iterations >= 1"
            raise ValueError(f"expected {expected}, got {c1}, {c2}, {delta} and {iterations}")
        self.features = WordFeatures() if features is None else features
        self.options = dict(scheme=scheme, c1=c1, c2=c2, iterations=iterations, delta=delta, backward=backward)
        self.scheme, self.backward, self.progress = scheme, backward, progress
        self.tags: list[str] = []
        self._model = b""

    def fit(self, train: Sentences, dev: Sentences = (), folder: Folder = None) -> "CRFTagger":
        """Learn from `train`; how many entities tags cannot hold is printed first. `dev` and `folder` are not used, as
        CRFsuite cannot take up half-trained weights: an interrupt leaves the tagger as it was before.

        Raises ValueError: no token, entities of which tags can hold none, or features that are not one list a token.
        """
        sentences, total = learnable(train), self.options["iterations"]
        settings = {name: self.options[name] for name in ("c1", "c2", "delta")} | {"max_iterations": total}
        trainer = _Trainer("lbfgs", settings | {"feature.possible_transitions": True, "period": 10}, verbose=False)
        trainer.bar = tqdm(desc="CRF", unit=" iterations", total=total, disable=not self.progress or None, leave=False)
        with trainer.bar, tempfile.TemporaryDirectory() as temporary:
            for sentence in sentences:
                tags = to_tags(sentence, self.scheme, on_loss="drop")
                trainer.append(self._items(sentence), _turned(tags, self.scheme) if self.backward else tags)
            trainer.train(str(Path(temporary, "model")))
            self._take(Path(temporary, "model").read_bytes())
        return self

    def _items(self, sentence: Sentence) -> list[list[str]]:
        """The features of each token, in the order of reading."""
        if self.features is None:
            raise ValueError("this model was trained with features of its own; set `tagger.features` to them first")
        lists = self.features(sentence.words)
        if len(lists) != len(sentence.tokens):
            tokens = f"{len(sentence.tokens)} tokens of sentence {sentence.id!r}"
            raise ValueError(f"features gave {len(lists)} lists for the {tokens}")
        return lists[::-1] if self.backward else lists

    def _take(self, model: bytes) -> None:
        self._model, self.tags = model, sorted(_opened(model).labels())

    def _check_trained(self) -> None:
        if not self._model:
            raise ValueError("this CRFTagger has learnt nothing yet; call fit(train) or load(folder) first")

    def _read(self, sentences: Sentences) -> Iterator[tuple[pycrfsuite.Tagger, list[str]]]:
        """For each sentence CRFsuite, set to it, and the most probable tags, both in the order of reading."""
        self._check_trained()
        model = self._model  # kept here, as CRFsuite reads from these bytes and fit may put others in their place
        crf = _opened(model)  # it holds one sentence at a time, so that two threads cannot share it
        for sentence in sentences:
            yield crf, crf.tag(self._items(sentence)) if sentence.tokens else []

    def _marginals(self, crf: pycrfsuite.Tagger, asked: list[bool]) -> np.ndarray:
        """The probability of each tag at the tokens that are asked for, (tokens, K) from left to right; others 0."""
        rows = np.zeros((len(asked), len(self.tags)))
        for i in np.flatnonzero(asked).tolist():
            rows[i] = [crf.marginal(tag, i) for tag in self.tags]
        return rows[::-1] if self.backward else rows

    def _tag(self, sentences: Sentences) -> list[list[Entity]]:
        found: list[list[Entity]] = []
        for sentence, (crf, tags) in zip(sentences, self._read(sentences)):
            near = [set(tags[max(i - 1, 0) : i + 2]) != {"O"} for i in range(len(tags))]  # what scores look at
            rows = self._marginals(crf, near)
            tags = _turned(tags, self.scheme) if self.backward else tags
            found.append(scored(self, from_tags(sentence, tags, self.scheme), rows) if any(near) else [])
        return found

    def predict_proba(self, sentences: Sentences) -> list[np.ndarray]:
        """For each sentence the marginal probability of each tag at each token: (tokens, K), tags as in `tags`."""
        return [self._marginals(crf, [True] * len(tags)) for crf, tags in self._read(sentences)]

    def confidence(self, sentences: Sentences) -> list[float]:
        """For each sentence the probability of its most probable tag sequence, in (0, 1]; 1 for an empty one."""
        return [crf.probability(tags) if tags else 1.0 for crf, tags in self._read(sentences)]

    def _save(self, folder: Path) -> None:
        self._check_trained()
        own = self.features if isinstance(self.features, WordFeatures) else None
        lexicons = list(map(asdict, own.lexicons)) if own else []
        about = {"options": self.options, "features": own and own.options, "lexicons": lexicons}
        write_atomically(folder / "model.crfsuite", self._model)
        write_atomically(folder / "crf.json", json.dumps(about, ensure_ascii=False) + "\n")

    @classmethod
    def _load(cls, folder: Path) -> "CRFTagger":
        about = json.loads((folder / "crf.json").read_text("utf-8"))
        tagger, own = cls(None, **about["options"]), about["features"]
        tagger.features = own and WordFeatures(**own, lexicons=map(Lexicon.from_json, about["lexicons"]))
        # CRFsuite trusts the file's inner offsets; `load` has found that it is not damaged.
        tagger._take((folder / "model.crfsuite").read_bytes())
        return tagger


def _opened(model: bytes) -> pycrfsuite.Tagger:
    crf = pycrfsuite.Tagger()
    crf.open_inmemory(model)
    return crf


def _turned(tags: list[str], scheme: str) -> list[str]:
    """The tags of the same entities, read from the other end of the sentence."""
    spans, n = tags_to_spans(tags, scheme), len(tags)
    return spans_to_tags([(n - end, n - start, kind) for start, end, kind in spans], n, scheme)


class _Trainer(pycrfsuite.Trainer):
    def message(self, line: str) -> None:
        """CRFsuite calls this with each line of its log; Ctrl-C is raised here and ends the training."""
        if line.startswith("***** Iteration"):
            self.bar.update()
        elif line.startswith("Loss: "):
            self.bar.set_postfix_str(f"loss {float(line[6:]):.0f}", refresh=False)

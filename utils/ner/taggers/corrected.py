"""CorrectedTagger: a tagger, and rules that mend what it finds (`utils.ner.postprocess`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from utils.files import write_atomically
from utils.ner.evaluation import evaluate
from utils.ner.postprocess import postprocess
from utils.ner.sentence import Entity, Sentence
from utils.ner.taggers.base import Tagger, fit_whole
from utils.ner.taggers.registry import load_tagger


class CorrectedTagger(Tagger):
    """Tags with another tagger and applies rules to the result.

    Args:
        tagger: the other one, trained or not.
        steps: names of rules in `postprocess.STEPS`, in the order of their use.
    Raises:
        ValueError: an unknown rule.
    """

    name = "corrected"

    def __init__(self, tagger: Tagger, steps: Sequence[str] = ("brackets", "abbreviations")) -> None:
        self.tagger, self.steps = tagger, list(steps)
        postprocess([], self.steps)

    @property
    def interrupted(self) -> bool:
        return self.tagger.interrupted

    def fit(
        self, train: Sequence[Sentence], dev: Sequence[Sentence] = (), folder: Path | None = None
    ) -> CorrectedTagger:
        """Train the tagger; with `dev`, keep of the rules those that raise the strict F1 there.

        Args:
            folder: keeps the state of the training, where the tagger can take it up again; an interrupt then is raised
                (KeyboardInterrupt).
        """
        if folder is None:
            self.tagger.fit(train, dev)
        else:
            fit_whole(self.tagger, train, dev, folder)
        return self.choose(dev) if dev else self

    def choose(self, dev: Sequence[Sentence]) -> CorrectedTagger:
        """Go through the rules once; one stays where the strict F1 on `dev` is higher with it than without it."""
        found, kept = self.tagger.predict(dev), []
        best = evaluate(dev, found, resamples=0).f1
        for step in self.steps:
            mended = postprocess(found, [step])
            score = evaluate(dev, mended, resamples=0).f1
            if score > best:
                best, found = score, mended
                kept.append(step)
        self.steps = kept
        return self

    def _tag(self, sentences: Sequence[Sentence]) -> list[list[Entity]]:
        return [list(one.entities) for one in postprocess(self.tagger.predict(sentences), self.steps)]

    def _save(self, folder: Path) -> None:
        self.tagger.save(folder / "tagger")
        write_atomically(folder / "corrected.json", json.dumps({"steps": self.steps}) + "\n")

    @classmethod
    def _load(cls, folder: Path) -> CorrectedTagger:
        steps = json.loads((folder / "corrected.json").read_text("utf-8"))["steps"]
        return cls(load_tagger(folder / "tagger"), steps)

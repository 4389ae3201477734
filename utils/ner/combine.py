"""Taggers made of taggers: rules that mend what one finds, several that vote, and BioTagger-GM, which does both.

BioTagger-GM (Torii, Hu, Wu & Liu 2009, JAMIA 16:247-255) looks names up in BioThesaurus and the UMLS, which is one kind
of feature of several models, mends what they find, and lets them vote. Here the lists are NCBI Gene's human symbols,
the Disease Ontology and MeSH; the models are four CRFs, more alike than the paper's (ABNER, MALLET, a Markov model,
LingPipe), without parts of speech and the list of false positives; rules, weights and threshold are chosen on dev.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from utils.files import write_atomically
from utils.ner.crf import CRFTagger
from utils.ner.evaluation import evaluate
from utils.ner.features import WordFeatures
from utils.ner.lexicons import Lexicon
from utils.ner.postprocess import postprocess
from utils.ner.sentence import Entity, Sentence
from utils.ner.tagger import Folder, Sentences, Tagger, fingerprint, load_tagger

WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
Ballots = list[dict[Entity, list[int]]]  # for each sentence, which members voted for an entity


class CorrectedTagger(Tagger):
    """Tags with another tagger and applies rules, names in `postprocess.STEPS` (others: ValueError), one by one."""

    name = "corrected"

    def __init__(self, tagger: Tagger, steps: Sequence[str] = ("brackets", "abbreviations")) -> None:
        self.tagger, self.steps = tagger, list(steps)
        postprocess([], self.steps)

    def fit(self, train: Sentences, dev: Sentences = (), folder: Folder = None) -> CorrectedTagger:
        """Train the tagger; with `dev`, keep those rules, one after the other, that raise the strict F1 there."""
        self.tagger.fit(train, dev, folder)
        if not dev:
            return self
        found, steps, self.steps = self.tagger.predict(dev), self.steps, []
        for step in steps:
            mended = postprocess(found, [step])
            if evaluate(dev, mended, resamples=0).f1 > evaluate(dev, found, resamples=0).f1:
                found, self.steps = mended, [*self.steps, step]
        return self

    def _tag(self, sentences: Sentences) -> list[list[Entity]]:
        return [list(found.entities) for found in postprocess(self.tagger.predict(sentences), self.steps)]

    def _save(self, folder: Path) -> None:
        self.tagger.save(folder / "tagger")
        write_atomically(folder / "corrected.json", json.dumps({"steps": self.steps}) + "\n")

    @classmethod
    def _load(cls, folder: Path) -> CorrectedTagger:
        return cls(load_tagger(folder / "tagger"), **json.loads((folder / "corrected.json").read_text("utf-8")))


class VotingTagger(Tagger):
    """Keeps the entities, pieces and type together, that more than `threshold` of the members' weight voted for.

    Of those that overlap (possible below a threshold of 1/2) the one with more weight stays, of equals the longer, then
    the one farther left, then the first type in the alphabet: the same votes always give the same answer.

    members: taggers, trained or not. weights: one for each, at least 0 and not all 0; equal when None.
    threshold: share of the weight, at least 0 and below 1; 0.5 is the majority.
    overlaps: whether those that overlap all stay, as where the members look for different types.
    Raises ValueError: no members, or weights or a threshold that do not fit.
    """

    name = "voting"

    def __init__(
        self,
        members: Sequence[Tagger],
        weights: Sequence[float] | None = None,
        threshold: float = 0.5,
        overlaps: bool = False,
    ) -> None:
        self.members = list(members)
        self.weights = [1.0] * len(self.members) if weights is None else list(map(float, weights))
        self.threshold, self.overlaps = threshold, overlaps
        if not self.members:
            raise ValueError("a vote needs at least one member, got none")
        if len(self.weights) != len(self.members) or min(self.weights) < 0 or not sum(self.weights):
            raise ValueError(f"expected {len(self.members)} weights, none below 0 and one above, got {self.weights}")
        if not 0 <= threshold < 1:
            raise ValueError(f"expected 0 <= threshold < 1, got {threshold}")

    def fit(self, train: Sentences, dev: Sentences = (), folder: Folder = None) -> VotingTagger:
        """Train every member, then choose weights and threshold on `dev` where there is one. `folder` keeps members as
        they are trained from these sentences (other settings are not noticed): the same call goes on there."""
        for number, member in enumerate(self.members, 1):
            print(f"member {number} of {len(self.members)}: {member.name}")
            place = folder and Path(folder) / f"member-{number}"
            self.members[number - 1] = _fit_once(member, train, dev, place) if place else member.fit(train, dev)
        return self.choose(dev) if dev else self

    def choose(self, dev: Sentences, votes: Sequence[Sentences] | None = None) -> VotingTagger:
        """Set weights and threshold by strict F1 on `dev`, from equal weights, one at a time until nothing improves;
        `votes`: what each member predicts on `dev`, where that is known already."""
        ballots = _collect(votes or [member.predict(dev) for member in self.members])
        best, before = [0.5] + [1.0] * len(self.members), None  # the threshold and the weights
        best_f1 = _f1(ballots, dev, best, self.overlaps)
        while best != before:
            before = best
            for place, values in enumerate([THRESHOLDS] + [WEIGHTS] * len(self.members)):
                for value in values:
                    tried = [*best[:place], value, *best[place + 1 :]]
                    if (f1 := _f1(ballots, dev, tried, self.overlaps)) > best_f1:
                        best, best_f1 = tried, f1
        self.threshold, *self.weights = best
        return self

    def combine(self, votes: Sequence[Sentences]) -> list[Sentence]:
        """The sentences with the elected entities, without a score, from what each member predicts on them."""
        elected = (_elect(ballot, self.weights, self.threshold, self.overlaps) for ballot in _collect(votes))
        return [sentence.with_entities(entities) for sentence, entities in zip(votes[0], elected)]

    def _tag(self, sentences: Sentences) -> list[list[Entity]]:
        return [list(found.entities) for found in self.combine([member.predict(sentences) for member in self.members])]

    def _save(self, folder: Path) -> None:
        for number, member in enumerate(self.members, 1):
            member.save(folder / f"member-{number}")
        about = {name: getattr(self, name) for name in ("weights", "threshold", "overlaps")}
        write_atomically(folder / "voting.json", json.dumps({"members": len(self.members)} | about) + "\n")

    @classmethod
    def _load(cls, folder: Path) -> VotingTagger:
        about = json.loads((folder / "voting.json").read_text("utf-8"))
        members = [load_tagger(folder / f"member-{number + 1}") for number in range(about["members"])]
        return cls(members, about["weights"], about["threshold"], about.get("overlaps", False))


def _collect(votes: Sequence[Sentences]) -> Ballots:
    ballots: Ballots = [defaultdict(list) for _ in votes[0]]
    for number, predicted in enumerate(votes):
        for ballot, sentence in zip(ballots, predicted, strict=True):
            for entity in sentence.entities:
                ballot[replace(entity, score=None)].append(number)
    return ballots


def _elect(ballot: dict[Entity, list[int]], weights: Sequence[float], threshold: float, overlaps: bool) -> list[Entity]:
    votes = {entity: sum(weights[number] for number in voters) for entity, voters in ballot.items()}
    kept: list[Entity] = []
    for entity in sorted(votes, key=lambda entity: (-votes[entity], entity.start - entity.end, entity)):
        if votes[entity] > threshold * sum(weights) and (overlaps or not any(map(entity.overlaps, kept))):
            kept.append(entity)
    return kept


def _f1(ballots: Ballots, gold: Sentences, settings: list[float], overlaps: bool) -> float:
    """Strict F1 of what is elected with a threshold and weights; 0 where no member has a weight."""
    threshold, *weights = settings
    elected = [_elect(ballot, weights, threshold, overlaps) for ballot in ballots]
    correct = sum(len({*found} & {*sentence.entities}) for found, sentence in zip(elected, gold))
    return 2 * correct / max(1, sum(map(len, elected)) + sum(len(sentence.entities) for sentence in gold))


def _fit_once(member: Tagger, train: Sentences, dev: Sentences, folder: Path) -> Tagger:
    """The member, trained now or, from the same sentences, before."""
    digest = f"{fingerprint(train)}-{fingerprint(dev)}"
    mark = folder / "trained-on.txt"
    if mark.exists() and mark.read_text("utf-8") == digest:
        return load_tagger(folder)
    states = folder / f"training-{digest}"
    member.fit(train, dev, states)
    member.save(folder)
    write_atomically(mark, digest)
    shutil.rmtree(states, ignore_errors=True)
    return member


def BioTaggerGM(lexicons: Sequence[Lexicon] = (), iterations: int = 150) -> VotingTagger:
    """Look-up of the lists as features, four CRFs that differ in direction (which needs BIO to matter, as BIOES marks
    an entity's first and last word either way), tags, window and features, post-processing of each, and a vote."""
    members = [
        CRFTagger(WordFeatures(lexicons=lexicons), "BIO", iterations=iterations),
        CRFTagger(WordFeatures(lexicons=lexicons), "BIO", iterations=iterations, backward=True),
        CRFTagger(WordFeatures(lexicons=lexicons, window=3, grams=(2, 3, 4)), iterations=iterations),
        CRFTagger(WordFeatures(lexicons=lexicons, window=1, stems=False, affixes=4), iterations=iterations),
    ]
    return VotingTagger(list(map(CorrectedTagger, members)))

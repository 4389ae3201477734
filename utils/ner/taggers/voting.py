"""VotingTagger: several taggers vote on whole spans."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from utils.files import write_atomically
from utils.ner.sentence import Entity, Sentence
from utils.ner.taggers.base import Tagger, fingerprint, fit_whole
from utils.ner.taggers.registry import load_tagger

WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
Span = tuple[int, int, str]
Ballots = list[dict[Span, list[int]]]  # for each sentence, which members voted for a span


class VotingTagger(Tagger):
    """Keeps the spans that more than `threshold` of the members' weight voted for.

    A vote is for start, end and type together. Of spans that overlap (possible below a threshold of 1/2) the one with
    more weight stays, of equals the longer, then the one farther left, then the first type in the alphabet: the same
    votes always give the same answer.

    Args:
        members: taggers, trained or not.
        weights: one for each member, at least 0 and not all 0; equal when None.
        threshold: share of the weight, at least 0 and below 1; 0.5 is the majority.
    Raises:
        ValueError: no members, or weights or a threshold that do not fit.
    """

    name = "voting"

    def __init__(
        self, members: Sequence[Tagger], weights: Sequence[float] | None = None, threshold: float = 0.5
    ) -> None:
        self.members = list(members)
        self.weights = [1.0] * len(self.members) if weights is None else list(map(float, weights))
        self.threshold = threshold
        if not self.members:
            raise ValueError("a vote needs at least one member, got none")
        if len(self.weights) != len(self.members) or min(self.weights) < 0 or not sum(self.weights):
            raise ValueError(f"expected {len(self.members)} weights, none below 0 and one above, got {self.weights}")
        if not 0 <= threshold < 1:
            raise ValueError(f"expected 0 <= threshold < 1, got {threshold}")

    @property
    def interrupted(self) -> bool:
        return any(member.interrupted for member in self.members)

    def fit(
        self, train: Sequence[Sentence], dev: Sequence[Sentence] = (), folder: str | Path | None = None
    ) -> VotingTagger:
        """Train every member, then choose weights and threshold on `dev` where there is one.

        Args:
            folder: keeps each member as soon as it is trained; the same call, made again after an interruption, goes
                on with the first that is missing, and within it where it can. Members kept from other sentences are
                trained again. A folder is for one set of members: other settings of a finished member are not noticed.
        Raises:
            KeyboardInterrupt: with a folder, for any interruption. Without one, a member that keeps what it has learnt
                so far votes with that.
        """
        for number, member in enumerate(self.members):
            place = None if folder is None else Path(folder) / f"member-{number + 1}"
            print(f"member {number + 1} of {len(self.members)}: {member.name}")
            self.members[number] = _fitted(member, train, dev, place)
        return self.choose(dev) if dev else self

    def choose(self, dev: Sequence[Sentence], votes: Sequence[Sequence[Sentence]] | None = None) -> VotingTagger:
        """Set weights and threshold by strict F1 on `dev`, from equal weights, one at a time until nothing improves.

        Args:
            votes: what each member predicts on `dev`, where that is known already.
        """
        ballots = _collect(votes or [member.predict(dev) for member in self.members])
        gold = [{entity.span for entity in sentence.entities} for sentence in dev]
        self.weights, self.threshold = [1.0] * len(self.members), 0.5
        best, improved = self._f1(ballots, gold), True
        while improved:
            improved = False
            for place in range(-1, len(self.members)):  # -1 stands for the threshold
                before = self._settings()
                for value in THRESHOLDS if place < 0 else WEIGHTS:
                    self._set(place, value)
                    score = self._f1(ballots, gold) if sum(self.weights) else 0.0
                    if score > best:
                        best, before, improved = score, self._settings(), True
                self.weights, self.threshold = list(before[0]), before[1]
        return self

    def _settings(self) -> tuple[list[float], float]:
        return list(self.weights), self.threshold

    def _set(self, place: int, value: float) -> None:
        if place < 0:
            self.threshold = value
        else:
            self.weights[place] = value

    def _f1(self, ballots: Ballots, gold: list[set[Span]]) -> float:
        elected = [set(self._elect(ballot)) for ballot in ballots]
        correct = sum(len(one & other) for one, other in zip(elected, gold))
        return 2 * correct / max(1, sum(map(len, elected)) + sum(map(len, gold)))

    def _elect(self, ballot: dict[Span, list[int]]) -> list[Span]:
        needed = self.threshold * sum(self.weights)
        votes = {span: sum(self.weights[number] for number in voters) for span, voters in ballot.items()}
        winners = [span for span, weight in votes.items() if weight > needed]
        kept: list[Span] = []
        for span in sorted(winners, key=lambda span: (-votes[span], span[0] - span[1], span)):
            if all(span[1] <= other[0] or other[1] <= span[0] for other in kept):
                kept.append(span)
        return kept

    def combine(self, votes: Sequence[Sequence[Sentence]]) -> list[Sentence]:
        """The sentences with the elected entities, from what each member predicts on them."""
        elected = map(self._elect, _collect(votes))
        return [
            one.with_entities(Entity(*span) for span in spans) for one, spans in zip(votes[0], elected, strict=True)
        ]

    def _tag(self, sentences: Sequence[Sentence]) -> list[list[Entity]]:
        return [list(one.entities) for one in self.combine([member.predict(sentences) for member in self.members])]

    def _save(self, folder: Path) -> None:
        for number, member in enumerate(self.members, 1):
            member.save(folder / f"member-{number}")
        about = {"members": len(self.members), "weights": self.weights, "threshold": self.threshold}
        write_atomically(folder / "voting.json", json.dumps(about) + "\n")

    @classmethod
    def _load(cls, folder: Path) -> VotingTagger:
        about = json.loads((folder / "voting.json").read_text("utf-8"))
        tagger = cls.__new__(cls)  # a kind that makes its own members has another constructor
        members = [load_tagger(folder / f"member-{number + 1}") for number in range(about["members"])]
        VotingTagger.__init__(tagger, members, about["weights"], about["threshold"])
        return tagger


def _collect(votes: Sequence[Sequence[Sentence]]) -> Ballots:
    ballots: Ballots = [defaultdict(list) for _ in votes[0]]
    for number, predicted in enumerate(votes):
        for ballot, sentence in zip(ballots, predicted, strict=True):
            for entity in sentence.entities:
                ballot[entity.span].append(number)
    return ballots


def _fitted(member: Tagger, train: Sequence[Sentence], dev: Sequence[Sentence], folder: Path | None) -> Tagger:
    """The member, trained now or, from the same sentences, before."""
    if folder is None:
        return member.fit(train, dev)
    digest = f"{fingerprint(train)}-{fingerprint(dev)}"
    mark = folder / "trained-on.txt"
    if mark.exists() and mark.read_text("utf-8") == digest:
        return load_tagger(folder)
    states = folder / f"training-{digest}"
    fit_whole(member, train, dev, states)
    member.save(folder)
    write_atomically(mark, digest)
    shutil.rmtree(states, ignore_errors=True)
    return member

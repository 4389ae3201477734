"""`evaluate`: precision, recall and F1 of entities, per type, with confidence intervals."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from utils.ner.bc2 import OfficialGold, official_counts, official_place
from utils.ner.types import Entity, Sentence

MODES = ("strict", "partial", "type", "bc2")
Annotated = Sentence | Sequence[Entity]
Span = tuple[int, int, str]


@dataclass(frozen=True)
class Scores:
    """Precision, recall and F1 in [0, 1] from counts; a ratio with nothing below the line is 0.

    Attributes:
        correct: found entities; half a point each for those found in part, in "partial" mode.
        predicted: how many were predicted. support: how many there are in the gold annotation.
        intervals: (low, high) of "precision", "recall" and "f1"; empty without bootstrap.
    """

    correct: float
    predicted: int
    support: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def precision(self) -> float:
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.correct / self.support if self.support else 0.0

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True)
class Report(Scores):
    """The scores over all entities together (micro average), and of each type."""

    mode: str = "strict"
    per_type: dict[str, Scores] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [f"{self.mode:<20}{'precision':>10}{'recall':>10}{'f1':>10}{'support':>10}  f1 interval"]
        for name, one in [*self.per_type.items(), ("all", self)]:
            interval = "{:.4f} to {:.4f}".format(*one.intervals["f1"]) if one.intervals else ""
            numbers = f"{one.precision:>10.4f}{one.recall:>10.4f}{one.f1:>10.4f}{one.support:>10,}"
            rows.append(f"{name:<20}{numbers}  {interval}".rstrip())
        return "\n".join(rows)


def evaluate(
    gold: Sequence[Annotated],
    predicted: Sequence[Annotated],
    mode: str = "strict",
    *,
    official: OfficialGold | None = None,
    resamples: int = 1000,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Report:
    """Score predictions against gold annotation, sentence by sentence in the same order.

    Args:
        gold, predicted: sentences, or for each sentence its entities. Duplicates count once.
        mode: "strict": same start, end and type, as seqeval (`mode="strict"`, IOB2) and nervaluate's "strict" count.
            "partial": the same characters are worth 1 and an overlap 1/2, types ignored in the total (nervaluate's
            "partial"), so that the types' points need not add up to it. "type": an overlap with the same type is worth
            1 (nervaluate's "ent_type"). In both, each gold entity pays for one prediction at most, predictions taken
            from left to right.
            "bc2": the rules of BioCreative II (see `utils.ner.bc2`), all types taken as one.
        official: for "bc2", the task's own mentions and alternatives, looked up by the gold sentences' ids; without
            it the gold entities count and there are no alternatives.
        resamples: bootstrap samples of sentences or groups, drawn with replacement, for the percentile intervals; 0 for
            none.
        groups: for each sentence the group it is drawn with, such as its document. Sentences of one document resemble
            each other, so that on a corpus of documents single sentences, as drawn when None, give intervals that are
            too narrow.
        confidence: what share of the resampled scores an interval holds, above 0 and below 1.
        seed: of the resampling.
    Raises:
        ValueError: an unknown mode, another number of sentences or groups, sentences whose texts differ, or "bc2"
            without texts.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; choose one of {', '.join(MODES)}")
    if not 0 < confidence < 1 or resamples < 0:
        raise ValueError(f"expected 0 < confidence < 1 and resamples >= 0, got {confidence} and {resamples}")
    _check_pairs(gold, predicted)
    if groups is not None and len(groups) != len(gold):
        raise ValueError(f"{len(groups)} groups for {len(gold)} sentences; expected one for each")
    if mode == "bc2":
        counts = {"all": _official(gold, predicted, official)}
    else:
        if official is not None:
            raise ValueError(f'official gold is for mode="bc2", got mode={mode!r}')
        counts = _count_all(list(map(_spans, gold)), list(map(_spans, predicted)), COUNTERS[mode])
    intervals = _bootstrap(counts, groups, resamples, confidence, seed)
    scores = {name: (*_totals(rows), intervals.get(name, {})) for name, rows in counts.items()}
    per_type = {name: Scores(*values) for name, values in scores.items() if name != "all"}
    return Report(*scores["all"], mode=mode, per_type=per_type)


def _check_pairs(gold: Sequence[Annotated], predicted: Sequence[Annotated]) -> None:
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold sentences and {len(predicted)} predicted; expected one for one")
    for number, (one, other) in enumerate(zip(gold, predicted)):
        if isinstance(one, Sentence) and isinstance(other, Sentence) and one.text != other.text:
            raise ValueError(
                f"sentence {number} is {one.text[:60]!r} in gold and {other.text[:60]!r} in predicted; expected the "
                "same sentences in the same order"
            )


def _spans(one: Annotated) -> list[Span]:
    return sorted({entity.span for entity in (one.entities if isinstance(one, Sentence) else one)})


def _totals(rows: np.ndarray) -> tuple[float, int, int]:
    correct, predicted, support = rows.sum(0).tolist()
    return correct, int(predicted), int(support)


# -- counting: (correct, predicted, gold) for each sentence ----------------------------------------


def _count_all(gold: list[list[Span]], predicted: list[list[Span]], count: Callable) -> dict[str, np.ndarray]:
    """For "all" and for each type an array (sentences, 3)."""
    types = sorted({span[2] for spans in (*gold, *predicted) for span in spans})
    counts = {name: np.zeros((len(gold), 3)) for name in ["all", *types]}
    for row, (true, found) in enumerate(zip(gold, predicted)):
        counts["all"][row] = count(true, found), len(found), len(true)
        here = {span[2] for span in (*true, *found)}
        for name in here:
            of_type = [span for span in true if span[2] == name], [span for span in found if span[2] == name]
            counts[name][row] = count(*of_type), len(of_type[1]), len(of_type[0])
    return counts


def _strict(gold: list[Span], predicted: list[Span]) -> int:
    return len(set(gold) & set(predicted))


def _partial(gold: list[Span], predicted: list[Span]) -> float:
    """A prediction takes the gold entity with its very characters, or else the first free one it overlaps."""
    free, points = list(gold), 0.0
    for one in predicted:
        touched = [other for other in free if _overlap(one, other)]
        same = next((other for other in touched if other[:2] == one[:2]), None)
        if touched:
            free.remove(same or touched[0])
            points += 1 if same else 0.5
    return points


def _type(gold: list[Span], predicted: list[Span]) -> int:
    """A prediction takes the free gold entity of its type with the closest boundaries, or else the first it overlaps.

    The second pays nothing, but that gold entity is no longer free.
    """
    free, points = list(gold), 0
    for one in predicted:
        touched = [other for other in free if _overlap(one, other)]
        right = [other for other in touched if other[2] == one[2]]
        if right:
            free.remove(min(right, key=lambda other: abs(other[0] - one[0]) + abs(other[1] - one[1])))
            points += 1
        elif touched:
            free.remove(touched[0])
    return points


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


COUNTERS = {"strict": _strict, "partial": _partial, "type": _type}


def _official(gold: Sequence[Annotated], predicted: Sequence[Annotated], official: OfficialGold | None) -> np.ndarray:
    rows = np.zeros((len(gold), 3))
    for row, (one, other) in enumerate(zip(gold, predicted)):
        if not isinstance(one, Sentence):
            raise ValueError(f'mode="bc2" counts characters, so gold must be sentences; got {type(one).__name__}')
        if official is None:
            true, alternatives = _places(one.entities, one.text), []
        else:
            true, alternatives = official.genes.get(one.id, []), official.alternatives.get(one.id, [])
        found = other.entities if isinstance(other, Sentence) else other
        rows[row] = official_counts(true, alternatives, _places(found, one.text))
    return rows


def _places(entities: Iterable[Entity], text: str) -> list[tuple[int, int]]:
    return [official_place(entity, text) for entity in entities]


# -- confidence intervals --------------------------------------------------------------------------


def _bootstrap(
    counts: dict[str, np.ndarray], groups: Sequence[Hashable] | None, resamples: int, confidence: float, seed: int
) -> dict:
    """Percentile intervals (Efron 1979) from groups drawn with replacement, the same draw for every type."""
    stacked = np.concatenate(list(counts.values()), axis=1)
    if groups is not None:
        stacked = _summed(stacked, groups)
    units = len(stacked)
    if not resamples or not units:
        return {}
    generator = np.random.default_rng(seed)
    draws = np.empty((resamples, stacked.shape[1]))
    for row in range(resamples):
        times = np.bincount(generator.integers(units, size=units), minlength=units)
        draws[row] = times @ stacked
    edges = [(1 - confidence) / 2, (1 + confidence) / 2]
    return {name: _intervals(draws[:, 3 * k : 3 * k + 3], edges) for k, name in enumerate(counts)}


def _summed(rows: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
    """The rows of each group added up, groups in the order of their first rows."""
    numbers: dict[Hashable, int] = {}
    places = [numbers.setdefault(group, len(numbers)) for group in groups]
    sums = np.zeros((len(numbers), rows.shape[1]))
    np.add.at(sums, places, rows)
    return sums


def _intervals(draws: np.ndarray, edges: list[float]) -> dict[str, tuple[float, float]]:
    correct, predicted, support = draws.T
    precision = np.divide(correct, predicted, out=np.zeros_like(correct), where=predicted > 0)
    recall = np.divide(correct, support, out=np.zeros_like(correct), where=support > 0)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    values = {"precision": precision, "recall": recall, "f1": f1}
    return {name: tuple(np.quantile(draw, edges).tolist()) for name, draw in values.items()}
